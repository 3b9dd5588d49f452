"""Stands before flwr-clientapp in a SuperNode's PATH: runs the real one, and appends its peak resident memory in bytes,
the kernel's account of its whole life, to the file that FLEET_PEAKS names.

A process inherits the memory peak of whoever starts it until it has a program of its own, so this must be a small
process.
"""

import os
import sys

pid = os.posix_spawn(os.environ["FLEET_CLIENTAPP"], [os.environ["FLEET_CLIENTAPP"], *sys.argv[1:]], os.environ)
_, status, usage = os.wait4(pid, 0)
with open(os.environ["FLEET_PEAKS"], "a") as file:
    file.write(f"{usage.ru_maxrss * 1024}\n")
os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
