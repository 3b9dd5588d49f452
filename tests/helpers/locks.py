"""Waiting for a lock that another test process has."""

import time
from typing import IO

from edge_s2a.system.locks import try_to_lock

POLL_S = 0.1


def wait_for(file: IO) -> None:
    """Returns when this process holds the lock of an open file, or where there are no locks."""
    while try_to_lock(file) is False:
        time.sleep(POLL_S)
