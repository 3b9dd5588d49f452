"""Runs a command and writes its peak resident memory, in bytes, as the last line of standard error.

A process inherits the memory peak of whoever starts it until it has a program of its own, so this must be
a small process.
"""

import os
import subprocess
import sys

process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
sys.stderr.write(f"\n{usage.ru_maxrss * 1024}\n")
os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
