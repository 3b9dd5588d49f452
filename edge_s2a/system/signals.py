"""The signals that ask a program to end."""

import signal
import sys

END: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
if sys.platform == "win32":
    # Ctrl-Break, the one that another process can send there; SIGTERM comes from this process alone.
    END = (*END, signal.SIGBREAK)
