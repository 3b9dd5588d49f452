"""Goes back to the best adapter where a training's own numbers run away: a learning rate that is too high, an image or
a device that produces values that are not numbers."""

import math
from typing import TYPE_CHECKING

from edge_s2a.device.optim.optimizer import forget
from edge_s2a.errors import UserError
from edge_s2a.run.schema import RestoredLine, SkippedLine

if TYPE_CHECKING:
    from edge_s2a.device.training_loop import TrainingLoop, TrainingStep

# Steps in a row whose loss or gradient is not finite after which the training goes back to its best adapter.
REPEATS = 3
# With the learning rate halved more often than this the numbers are not the rate's fault.
LEAST_RATE_SHARE = 2.0**-10


class Divergence:
    """Skips steps that are not finite, and restores the best adapter at half the learning rate where they repeat or
    where an epoch's loss has become worse than guessing."""

    def after_step(self, loop: "TrainingLoop", step: "TrainingStep") -> None:
        """Counts steps in a row that were not finite, and so changed nothing."""
        position = loop.position
        if step.is_finite:
            position.failures = 0
            return
        position.failures += 1
        loop.write(SkippedLine(epoch=position.epoch + 1, step=position.step, reason="not finite"))
        if position.failures == REPEATS:
            go_back(loop, f"loss or gradient were not finite {REPEATS} steps in a row")

    def rejects_epoch(self, loop: "TrainingLoop") -> bool:
        """Judges the epoch that has just ended by its training loss; where that has run away, goes back and returns
        True."""
        position = loop.position
        loss, lowest = position.train_loss, position.lowest_loss
        if loss is None:
            return False
        if has_diverged(loss, lowest, loop.trainer.manifest.num_classes):
            go_back(loop, f"the loss rose from {lowest:.3f} to {loss:.4g}")
            return True
        position.lowest_loss = min(lowest, loss)
        return False


def has_diverged(train_loss: float, lowest_loss: float, classes: int) -> bool:
    """Returns whether an epoch's mean loss, once better than that of guessing, ln(classes), is worse than it."""
    return lowest_loss < math.log(classes) < train_loss


def go_back(loop: "TrainingLoop", reason: str) -> None:
    """Restores the best adapter and halves the learning rate. Raises UserError where that has been of no use."""
    position = loop.position
    if position.rate_share <= LEAST_RATE_SHARE:
        loop.restore_best()
        loop.save()
        where = f"the best adapter is in {'the trainer' if loop.folder is None else loop.folder.best}"
        raise UserError(
            f"{reason}, even at {position.rate_share:g} of the learning rate; {where}; check the artifact on this "
            "device with edge-s2a check"
        )
    position.failures = 0
    position.rate_share /= 2
    loop.restore_best()
    forget(loop.trainer.optimizer)
    loop.write(
        RestoredLine(epoch=position.epoch + 1, step=position.step, reason=reason, rate_share=position.rate_share)
    )
    loop.progress.message(
        f"step {position.step}: {reason}; continuing from the best adapter with {position.rate_share:g} of the "
        "learning rate"
    )
