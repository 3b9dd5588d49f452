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


class LeftOut(NamedTuple):
    """What the classifier says of the images of a sample, each as if it had not been learned."""

    rows: np.ndarray  # int (images,): which of the kept ones
    labels: np.ndarray  # int64 (images,)
    weights: np.ndarray  # float64 (images,), of sum 1
    outputs: np.ndarray  # float64 (images, classes): scores


def sample_of(kept: Kept, counts: np.ndarray) -> Sample:
    """At most MOST_LEFT_OUT of the kept images.

    Classes of one image do not count, because what is left knows nothing of them. No image counts unless two other
    classes are kept: of a single class the best lambda would be the one that knows no other.
    """
    candidates = np.flatnonzero(counts[kept.labels] > 1)
    chosen = balanced_choice(kept.digests[candidates], kept.labels[candidates], MOST_LEFT_OUT)
    rows = np.sort(candidates[chosen])
    labels = kept.labels[rows]
    sizes = np.bincount(labels, minlength=len(counts))
    if np.count_nonzero(sizes) < 2:
        return Sample(rows[:0], labels[:0], np.zeros(0))
    weights = (counts / np.maximum(sizes, 1))[labels]
    return Sample(rows, labels, weights / weights.sum())


def balanced_choice(digests: np.ndarray, labels: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` images, as many of each class where there are as many; which ones, and their order,
    follows from the digests, uint8 (images, DIGEST_BYTES), whatever order the images are in."""
    order = np.lexsort((digest_keys(digests), labels))
    sizes = np.bincount(labels)
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # in its class
    return order[np.argsort(place, kind="stable")][:most]
