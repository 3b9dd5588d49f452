"""What keeps a run from being spoilt by its own numbers: a rate that is too high, an image or a device that gives what
is not a number."""

import math

import numpy as np

# After so many steps in a row whose loss or gradient is not finite the run goes back to its best adapter.
REPEATS = 3
# With the learning rate halved more often than this the numbers are not the rate's fault.
LEAST_RATE_SHARE = 2.0**-10


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
