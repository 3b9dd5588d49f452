"""Makes probabilities of scores: one temperature, chosen on images that were left out.

p = softmax(score / temperature) (Guo et al., On Calibration of Modern Neural Networks, ICML 2017). The log loss is
convex in 1 / temperature, so its minimum is where the derivative is zero. Scores of images that were left out are often
all right, and then no finite temperature would do: the loss is taken as if one more image had come with any label.
"""

from collections.abc import Iterator

import numpy as np

HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE = 100.0, 1e-3
BLOCK_VALUES = 1 << 16  # exponentials computed at once
BINS = 15
TOLERANCE = 1e-12  # of a step, relative
MOST_STEPS = 100


def best_temperature(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """The temperature with the least log loss, between the two bounds.

    scores: float64 (images, classes). labels: int (images,). weights: float64 (images,), of sum 1.
    """
    smoothing = 1 / (1 + np.count_nonzero(weights))
    low, high = 1 / HIGHEST_TEMPERATURE, 1 / LOWEST_TEMPERATURE
    inverse = 1.0
    for _ in range(MOST_STEPS):
        slope, curvature = 0.0, 0.0
        for rows, probabilities in _blocks(scores, inverse):
            block, weight = scores[rows], weights[rows]
            expected = (probabilities * block).sum(1)
            wanted = (1 - smoothing) * block[np.arange(len(block)), labels[rows]] + smoothing * block.mean(1)
            slope += float(weight @ (expected - wanted))
            block = block - expected[:, None]
            curvature += float(weight @ (probabilities * block * block).sum(1))
        if slope > 0:
            high = inverse
        else:
            low = inverse
        # Newton's step where it stays inside the bounds, else the middle of their logarithms.
        proposed = inverse - slope / curvature if curvature > 0 else 0.0
        if not low < proposed < high:
            proposed = (low * high) ** 0.5
        if abs(proposed - inverse) <= TOLERANCE * inverse:
            break
        inverse = proposed
    return 1 / inverse


def log_loss(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, temperature: float) -> float:
    """The weighted mean of -log p of the right classes; arguments as above."""
    total = 0.0
    for rows, probabilities in _blocks(scores, 1 / temperature):
        right = probabilities[np.arange(len(probabilities)), labels[rows]]
        total -= float(weights[rows] @ np.log(np.maximum(right, np.finfo(np.float64).tiny)))
    return total


def expected_calibration_error(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, temperature: float, bins: int = BINS
) -> float:
    """The weighted mean, over `bins` equal intervals of the likeliest class's probability, of how far that is from the
    share of images in the interval that it is right for (Guo et al., 2017)."""
    probability, is_right = np.empty(len(scores)), np.empty(len(scores), bool)
    for rows, probabilities in _blocks(scores, 1 / temperature):
        best = probabilities.argmax(1)
        probability[rows] = probabilities[np.arange(len(best)), best]
        is_right[rows] = best == labels[rows]
    number = np.minimum((probability * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(number, weights * (probability - is_right), bins)).sum())


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities (images, classes) of scores (images, classes), in their dtype."""
    result = scores - scores.max(1, keepdims=True)
    np.exp(result, out=result)
    result /= result.sum(1, keepdims=True)
    return result


def _blocks(scores: np.ndarray, inverse: float) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields some rows at a time, and their probabilities."""
    count = max(1, BLOCK_VALUES // scores.shape[1])
    for start in range(0, len(scores), count):
        rows = slice(start, start + count)
        yield rows, softmax(scores[rows] * inverse)
