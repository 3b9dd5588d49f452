"""Turns SIGINT and SIGTERM into a KeyboardInterrupt between two steps."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from edge_s2a.system import signals

if TYPE_CHECKING:
    from edge_s2a.device.training_loop import TrainingLoop, TrainingStep

POLL_S = 0.2
# A shell starts what runs in the background with SIGINT ignored.
NOBODYS = (signal.default_int_handler, signal.SIG_DFL, signal.SIG_IGN)


class Interruption:
    """Within its block SIGINT and SIGTERM raise KeyboardInterrupt: at once, or after the current step and a checkpoint.

    Signals arrive in the main thread alone, so elsewhere it does nothing; and where the program has handlers of its
    own, these stay.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._is_held_back = False
        self._previous: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in signals.END:
                if signal.getsignal(number) in NOBODYS:
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def after_step(self, loop: "TrainingLoop", step: "TrainingStep") -> None:
        if self.is_requested:
            loop.save()
            raise KeyboardInterrupt

    def sleep(self, seconds: float) -> None:
        """Sleeps, but not on after a signal."""
        end_s = time.monotonic() + seconds
        while not self.is_requested and (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, POLL_S))

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Within the block a signal is only noted, for `after_step`, and raised at its end."""
        self._is_held_back = True
        try:
            yield
        finally:
            self._is_held_back = False
        if self.is_requested:
            raise KeyboardInterrupt

    def _receive(self, *_: object) -> None:
        self.is_requested = True
        if not self._is_held_back:
            raise KeyboardInterrupt
