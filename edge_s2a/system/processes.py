"""Gives way to another program."""

import os
import subprocess
import sys
from typing import NoReturn

from edge_s2a.system import IS_WINDOWS


def become(command: list[str]) -> NoReturn:
    """Goes on as another program, whose exit code is that of this process: only so does all memory go back."""
    if IS_WINDOWS:  # whose exec starts a process beside this one, and ends this one at once
        sys.exit(subprocess.call(command))
    os.execv(command[0], command)
