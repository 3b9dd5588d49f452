"""Defines what a training asks of a policy."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edge_s2a.device.training_loop import TrainingLoop, TrainingStep


class Policy(Protocol):
    """Looks at a training after each optimizer step; it may change its state, write a checkpoint, wait, or end it by an
    error."""

    def after_step(self, loop: "TrainingLoop", step: "TrainingStep") -> None: ...
