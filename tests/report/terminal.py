"""Watches on a terminal of its own."""

import io
import os
import pty
import select
import subprocess
import sys

from tests.helpers.paths import PROJECT

END_OF_FRAME = b"\x1b[J"


def on_a_terminal(shown, act, **environment):
    """(what `watch SHOWN` wrote on a terminal, its exit code). act: gets the process and its keyboard once a frame is
    there."""
    keyboard, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_s2a", "watch", str(shown)], stdin=terminal, stdout=terminal, stderr=terminal,
        cwd=PROJECT, env={**os.environ, "COLUMNS": "80", "LINES": "24", **environment},
    )  # fmt: skip
    os.close(terminal)
    written, has_acted = io.BytesIO(), False
    while select.select([keyboard], [], [], 20)[0]:
        try:
            piece = os.read(keyboard, 65536)
        except OSError:  # its other end is closed
            break
        written.write(piece)
        if not has_acted and END_OF_FRAME in written.getvalue():
            has_acted = True
            act(process, keyboard)
    code = process.wait(timeout=20)
    os.close(keyboard)
    return written.getvalue().decode(), code
