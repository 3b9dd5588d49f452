"""Tells whether recent images come from elsewhere than those that were learned: another camera, light, or season.

The residual of an image is what its features differ by from the mean of the class that it is taken for, in deviations
over all images. The statistic is the mean square of the mean residual of the recent images. Of images like those that
were learned, residuals cancel, however many of each class there are; where something has shifted, they add up. The
threshold is what 1 % of draws of as many left-out images exceed (the bootstrap: Efron, 1979), times what the class
means themselves err: 1 + m sum over classes of share^2 / images learned, for m recent images.

In our study (20 images per class, six pairs of model and data) images of the same kind exceeded it in at most 1 % of
draws of 8 or 64, those of one class alone in 1 to 9 % of draws of 16, and those of another domain in 96 % or more of
draws of 4 and in all of 8. Without classes, a stream of a single class looks like drift.
"""

from typing import NamedTuple

import numpy as np

from edge_s2a.artifact.learned import DRIFT_IMAGES, Head
from edge_s2a.device.closed_form.solve import scores


class Drift(NamedTuple):
    """How far recent images are from those that were learned."""

    statistic: float
    threshold: float
    drifted: bool  # whether the statistic exceeds the threshold
    images: int


class Recent:
    """Adds up what the drift of images is told by, some at a time."""

    def __init__(self, head: Head):
        self._head = head
        self._total = np.zeros(len(head.mean))
        self._predicted = np.zeros(len(head.classes), np.int64)

    @property
    def images(self) -> int:
        return int(self._predicted.sum())

    def add(self, features: np.ndarray) -> None:
        """features: float32 (images, width)."""
        self._total += features.sum(0)
        self._predicted += np.bincount(scores(self._head, features).argmax(1), minlength=len(self._predicted))

    def drift(self) -> Drift | None:
        """Of all images that were added, of which there is at least one; None as for `drift_of`."""
        return drift_of(self._head, self._total, self._predicted)


def drift_of(head: Head, total: np.ndarray, predicted: np.ndarray) -> Drift | None:
    """The drift of recent images, of which there is at least one; None where no image could be left out when the head
    was solved for.

    total: float64 (width,), the sum of their features. predicted: int (classes,), how many of them are likeliest of
    each class.
    """
    familiar, images = head.familiar, int(predicted.sum())
    if familiar is None:
        return None
    is_used = head.deviation > 0
    residual = (total - predicted @ familiar.means.astype(np.float64))[is_used] / images / head.deviation[is_used]
    statistic = float(residual @ residual) / max(1, len(residual))
    # The statistic falls with the number of images: nearly a straight line in logarithms.
    drawn = np.exp(np.interp(np.log(images), np.log(DRIFT_IMAGES), np.log(np.maximum(familiar.drift, 1e-30))))
    threshold = float(drawn * (1 + (predicted**2 / head.counts).sum() / images))
    return Drift(statistic, threshold, statistic > threshold, images)
