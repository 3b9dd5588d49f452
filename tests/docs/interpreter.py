"""Executes the Python blocks of a page, which share their names: one JSON line {"where", "source"} in, one line out
when the block has run. Ends at the first exception."""

import json
import sys

DONE = "\x04 done"

if __name__ == "__main__":
    names = {"__name__": "__main__"}
    for line in sys.stdin:
        block = json.loads(line)
        exec(compile(block["source"], block["where"], "exec"), names)
        print(DONE, flush=True)
