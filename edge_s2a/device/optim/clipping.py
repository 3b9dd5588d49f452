"""The norm of a gradient, and its limit."""

import math

import numpy as np


def gradient_norm(gradients: dict[str, np.ndarray]) -> float:
    """Returns the Euclidean norm over all tensors, summed in float64; infinite or NaN if a value is."""
    with np.errstate(over="ignore", invalid="ignore"):
        return math.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in gradients.values()))


def clip(gradients: dict[str, np.ndarray], norm: float, limit: float) -> None:
    """Scales the gradients, whose norm is `norm`, to the norm `limit` if it is larger (arXiv 1211.5063)."""
    if norm > limit:
        for gradient in gradients.values():
            gradient *= np.float32(limit / norm)
