"""Chooses the images that are left out, one at a time, to measure what the others give."""

from typing import NamedTuple

import numpy as np

from edge_s2a.artifact.learned import Kept
from edge_s2a.device.closed_form.form import MOST_LEFT_OUT
from edge_s2a.device.closed_form.state import digest_keys


class Sample(NamedTuple):
    """Images that are left out, one at a time."""

    rows: np.ndarray  # int (images,): which of the kept ones
    labels: np.ndarray  # int64 (images,)
    weights: np.ndarray  # float64 (images,), of sum 1: each class counts as often as it was learned

    @property
    def balanced(self) -> np.ndarray:
        """The same with classes that count alike."""
        weights = 1 / np.bincount(self.labels)[self.labels]
        return weights / weights.sum()


def sample_of(kept: Kept, counts: np.ndarray) -> Sample:
    """At most MOST_LEFT_OUT of the kept images, as many of each class where there are as many, which ones by their
    digests.

    Classes of one image do not count, because what is left knows nothing of them. No image counts unless two other
    classes are kept: of a single class the best lambda would be the one that knows no other.
    """
    order = np.lexsort((digest_keys(kept.digests), kept.labels))
    sizes = np.bincount(kept.labels, minlength=len(counts))
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # in its class
    order = order[np.argsort(place, kind="stable")]
    order = order[counts[kept.labels[order]] > 1]
    rows = np.sort(order[:MOST_LEFT_OUT])
    labels = kept.labels[rows]
    chosen = np.bincount(labels, minlength=len(counts))
    if np.count_nonzero(chosen) < 2:
        return Sample(rows[:0], labels[:0], np.zeros(0))
    weights = (counts / np.maximum(chosen, 1))[labels]
    return Sample(rows, labels, weights / weights.sum())
