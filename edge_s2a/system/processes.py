"""Continuing in a fresh process, with the memory that this one had."""

import os
import signal
import sys
from typing import NoReturn

from edge_s2a.system.which import IS_FORCED


def continue_as(command: list[str]) -> NoReturn:
    """Replaces this process with one that runs `command`.

    On Windows no process can be replaced: this one waits for the other, in what memory it has, and ends with its exit
    code.
    """
    if sys.platform != "win32" and not IS_FORCED:
        os.execv(command[0], command)
    import subprocess  # here, because it would be in the memory of every command

    process = subprocess.Popen(command)
    # A terminal sends Ctrl-C to both; the other one decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    sys.exit(process.wait())
