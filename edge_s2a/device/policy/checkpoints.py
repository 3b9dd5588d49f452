"""Writes checkpoints as often as the user asked for."""

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_s2a.device.training_loop import TrainingLoop, TrainingStep


class Checkpoints:
    """Saves the training where the last checkpoint is too old."""

    def __init__(self, minutes: float):
        """minutes: longest time between checkpoints; 0: one after every step."""
        self.longest_s = 60 * minutes

    def after_step(self, loop: "TrainingLoop", step: "TrainingStep") -> None:
        if time.monotonic() - loop.saved_s >= self.longest_s:
            loop.save()
