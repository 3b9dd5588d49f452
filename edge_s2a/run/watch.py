"""Draws a run, or what is learned in one pass, in a terminal, also over ssh, while another process works on it.

It reads files and nothing else, and imports neither the engine nor numpy: memory that it takes the other may lack.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_s2a.errors import UserError
from edge_s2a.run.frame import frame
from edge_s2a.run.learning import LearningView, is_of_learning, learning_frame, open_learning
from edge_s2a.run.text import Line, rendered
from edge_s2a.run.view import View, open_view, refreshed
from edge_s2a.system import signals
from edge_s2a.system.terminal import Keys, keys_at_once

REDRAW_S = 1.0
ALTERNATE_SCREEN, MAIN_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


def watch(path: Path, once: bool) -> None:
    """Draws the run in folder `path`, or the knowledge file of that name, about once a second until it is finished, or
    until q or Ctrl-C.

    Draws one frame where `once` is set or standard output is no terminal. Raises UserError if there is neither.
    """
    view = opened(path)
    is_terminal = sys.stdout.isatty()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a serial console may lack block characters
    if is_terminal and not once:
        with full_screen() as keys:
            while not view.is_finished:
                draw(view)
                if wants_to_leave(keys):
                    break
                view = looked_at_again(view)
    print("\n".join(screen_lines(view, is_terminal)), flush=True)


def snapshot(path: Path) -> dict[str, Any]:
    """Returns what a frame shows as plain values. Raises UserError as `watch` does."""
    return opened(path).plain(time.time())


def opened(path: Path) -> View | LearningView:
    if path.is_dir():
        return open_view(path)
    if is_of_learning(path):
        return open_learning(path)
    raise UserError(
        f"{path} is neither a folder nor a knowledge file; give the folder that was --output of edge-s2a train, or the "
        "file of edge-s2a learn"
    )


def looked_at_again(view: View | LearningView) -> View | LearningView:
    return open_learning(view.path) if isinstance(view, LearningView) else refreshed(view)


def lines_of(view: View | LearningView, width: int, height: int) -> list[Line]:
    if isinstance(view, LearningView):
        return learning_frame(view, width, height, time.time())
    return frame(view, width, height, time.time())


def screen_lines(view: View | LearningView, is_terminal: bool) -> list[str]:
    width, height = shutil.get_terminal_size()
    is_coloured = is_terminal and not os.environ.get("NO_COLOR")
    return [rendered(line, is_coloured) for line in lines_of(view, width, height - 1)]


def draw(view: View | LearningView) -> None:
    lines = (line + REST_OF_LINE for line in screen_lines(view, True))
    sys.stdout.write(HOME + "\n".join(lines) + REST_OF_SCREEN)
    sys.stdout.flush()


@contextlib.contextmanager
def full_screen() -> Iterator[Keys | None]:
    """Switches the terminal to a screen of its own for the block, and restores it however the block ends.

    Yields the keyboard, None where there is none. Ctrl-C and SIGTERM end the block.
    """
    # SIGINT too: a shell starts what runs in the background with it ignored.
    previous = {number: signal.signal(number, signal.default_int_handler) for number in signals.END}
    sys.stdout.write(ALTERNATE_SCREEN)
    try:
        with keys_at_once() as keys, contextlib.suppress(KeyboardInterrupt):
            yield keys
    finally:
        sys.stdout.write(MAIN_SCREEN)
        sys.stdout.flush()
        for number, handler in previous.items():
            signal.signal(number, handler)


def wants_to_leave(keys: Keys | None) -> bool:
    """Waits until the next frame is due or a key is pressed. Returns True for q, or if the keyboard is gone."""
    if keys is None:
        time.sleep(REDRAW_S)
        return False
    end_s = time.monotonic() + REDRAW_S
    while (left_s := end_s - time.monotonic()) > 0:
        pressed = keys(left_s)
        if pressed is None or b"q" in pressed.lower():
            return True
    return False
