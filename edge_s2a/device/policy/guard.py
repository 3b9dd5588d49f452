"""What keeps a run from being spoilt by its own numbers: a rate that is too high, an image or a device that gives what
is not a number, a step that never ends."""

import contextlib
import faulthandler
import math

import numpy as np

# After so many steps in a row whose loss or gradient is not finite the run goes back to its best adapter.
REPEATS = 3
# With the learning rate halved more often than this the numbers are not the rate's fault.
LEAST_RATE_SHARE = 2.0**-10
STANDARD_ERROR = 2  # its descriptor: sys.stderr may have none


def gradient_norm(gradients: dict[str, np.ndarray]) -> float:
    """Euclidean norm over all tensors; infinite or NaN if a value is. Summed in float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        return math.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in gradients.values()))


def clip(gradients: dict[str, np.ndarray], norm: float, limit: float) -> None:
    """Scales the gradients, whose norm is `norm`, to the norm `limit` if it is larger (arXiv 1211.5063)."""
    if norm > limit:
        for gradient in gradients.values():
            gradient *= np.float32(limit / norm)


def has_diverged(train_loss: float, lowest_loss: float, classes: int) -> bool:
    """Whether an epoch's mean loss, once better than that of guessing, ln(classes), is worse than it."""
    return lowest_loss < math.log(classes) < train_loss


@contextlib.contextmanager
def watchdog(minutes: float):
    """Ends the process, with exit code 1 and every thread's place on standard error, if the block takes longer: what
    hangs, an image on a network or a driver, must not keep the device for ever."""
    faulthandler.dump_traceback_later(60 * minutes, exit=True, file=STANDARD_ERROR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
