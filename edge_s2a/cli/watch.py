"""`edge-s2a watch`."""

import json
from pathlib import Path

from edge_s2a.cli.command import Command
from edge_s2a.cli.output import Output
from edge_s2a.options import WatchOptions


def run(options: WatchOptions, output: Output) -> int:
    from edge_s2a.run.watch import snapshot, watch

    if output.json:
        print(json.dumps(snapshot(Path(options.source))))
    elif not output.quiet:
        watch(Path(options.source), options.once)
    return 0


COMMAND = Command(
    "watch", "show a run as it trains, or what is learned in one pass, until q or Ctrl-C", WatchOptions, run
)
