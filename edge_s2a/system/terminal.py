"""The terminal's keyboard, key by key, and its text."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

Keys = Callable[[float], "bytes | None"]
"""Waits so many seconds for keys; returns what was pressed, b"" if nothing was, None if the keyboard is gone."""

POLL_S = 0.05


@contextlib.contextmanager
def keys_at_once() -> Iterator[Keys | None]:
    """Within the block keys come as they are pressed, unseen, and not line by line. Yields None where there is no
    keyboard."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield None
    elif sys.platform == "win32":
        yield _windows_keys
    else:
        import termios
        import tty

        keyboard = sys.stdin.fileno()
        settings = termios.tcgetattr(keyboard)
        try:
            tty.setcbreak(keyboard)
            yield _keys_of(keyboard)
        finally:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, settings)


def _keys_of(keyboard: int) -> Keys:
    import select

    def keys(seconds: float) -> bytes | None:
        ready, _, _ = select.select([keyboard], [], [], seconds)
        return (os.read(keyboard, 64) or None) if ready else b""

    return keys


def _windows_keys(seconds: float) -> bytes | None:
    if sys.platform == "win32":
        import msvcrt

        end_s = time.monotonic() + seconds
        while not msvcrt.kbhit():
            if (left_s := end_s - time.monotonic()) <= 0:
                return b""
            time.sleep(min(left_s, POLL_S))
        return msvcrt.getch()
    raise AssertionError("elsewhere _keys_of reads")


def prepare_output() -> None:
    """Makes a console of Windows take the escape sequences that draw, and what is printed UTF-8; does nothing
    elsewhere."""
    if sys.platform == "win32":
        os.system("")  # its documented effect is none, but from then on the console takes them
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(encoding="utf-8")
