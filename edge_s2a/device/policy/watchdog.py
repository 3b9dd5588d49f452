"""Ends a process whose training step hangs."""

import faulthandler
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_s2a.device.training_loop import TrainingLoop, TrainingStep

STANDARD_ERROR = 2  # its descriptor: sys.stderr may have none


class Watchdog:
    """Within its block, ends the process with exit code 1 if a step, with what follows it, takes too long, and writes
    every thread's stack to standard error.

    What hangs, an image on a network or a driver, must not keep the device for ever.
    """

    def __init__(self, minutes: float):
        """minutes: longest time for a step; infinite: no limit."""
        self.longest_s = 60 * minutes

    def __enter__(self) -> "Watchdog":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()

    def after_step(self, loop: "TrainingLoop", step: "TrainingStep") -> None:
        self._start()

    def _start(self) -> None:
        if math.isfinite(self.longest_s):
            faulthandler.dump_traceback_later(self.longest_s, exit=True, file=STANDARD_ERROR)
