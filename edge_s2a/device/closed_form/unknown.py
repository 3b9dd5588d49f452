"""Tells images of no known class from those of known ones.

An image is unlike what was learned if no class has a high score, and if its features are far from the mean of every
class:

    score = standardised(- largest class score) + standardised(least mean square of (x - mean of class) / deviation)

with deviations inside the classes, and both parts standardised over images that were left out. Of twenty scores in our
study, predictive variances and nearest neighbours among them, this one told most unknown images apart (area under the
curve 84 % in the mean over six sets; the largest probability alone 81 %). The threshold is what a stated share of the
left-out images exceeds.
"""

import numpy as np

from edge_s2a.artifact.learned import UNKNOWN_RATES, Head
from edge_s2a.device.closed_form.solve import scores


def are_unknown(head: Head, features: np.ndarray, rate: float) -> np.ndarray:
    """bool (images,): whether images are of no known class, of their features float32 (images, width).

    rate: the share of images of known classes that may be taken for unknown; it counts as at least the smallest, at
    most the largest of UNKNOWN_RATES. Where no image could be left out, none is unknown.
    """
    if head.familiar is None:
        return np.zeros(len(features), bool)
    # Rates decrease.
    threshold = np.interp(-np.log(rate), -np.log(UNKNOWN_RATES), head.familiar.unknown)
    return unknown_scores(head, features) > threshold


def unknown_scores(head: Head, features: np.ndarray) -> np.ndarray:
    """float32 (images,): how unlike all classes images are. Raises ValueError where no image could be left out."""
    familiar = head.familiar
    if familiar is None:
        raise ValueError("no image could be left out")
    is_used = familiar.within > 0
    scale = np.divide(1, familiar.within, out=np.zeros_like(familiar.within), where=is_used)
    images, means = (features - head.mean) * scale, (familiar.means - head.mean) * scale
    squares = (images**2).sum(1)[:, None] - 2 * images @ means.T + (means**2).sum(1)
    distances = squares.min(1) / max(1, np.count_nonzero(is_used))
    highest = scores(head, features).max(1) * np.float32(head.temperature)
    (center, spread) = familiar.scales.T
    return (-highest - center[0]) / spread[0] + (distances - center[1]) / spread[1]
