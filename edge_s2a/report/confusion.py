"""Counts which classes a validation takes for which, and finds the images it is most wrong about."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from edge_s2a.run.schema import PredictionLine

WORST_IMAGES = 24
WORST_PAIRS = 10
# More classes than these would be too small to read.
MOST_CLASSES = 40


class Confusion(NamedTuple):
    counts: Counter[tuple[str, str]]  # (label, predicted) -> images
    worst: list[tuple[float, PredictionLine]]  # (probability, line) of the surest wrong predictions, the surest first

    @property
    def images(self) -> int:
        return self.counts.total()

    @property
    def wrong(self) -> int:
        return sum(count for (label, predicted), count in self.counts.items() if label != predicted)

    @property
    def worst_pairs(self) -> list[tuple[str, str, int]]:
        """(label, predicted, images) of the most frequent confusions, the most frequent first."""
        pairs = [(*pair, count) for pair, count in self.counts.items() if pair[0] != pair[1]]
        return sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))[:WORST_PAIRS]


def confusion_of(predictions: Iterable[PredictionLine]) -> Confusion:
    """Counts predictions one at a time, of which only the worst are kept."""
    counts: Counter[tuple[str, str]] = Counter()

    def wrong() -> Iterator[tuple[float, int, PredictionLine]]:
        for order, line in enumerate(predictions):
            counts[line.label, line.predicted] += 1
            if line.label != line.predicted and line.probability is not None:
                yield line.probability, -order, line

    worst = heapq.nlargest(WORST_IMAGES, wrong())
    return Confusion(counts, [(probability, line) for probability, _, line in worst])


def shown_classes(confusion: Confusion, classes: list[str]) -> list[str]:
    """Returns the classes that the matrix shows, in their order: all, or where these are too many those with most
    errors."""
    found = {name for pair in confusion.counts for name in pair}
    names = [name for name in dict.fromkeys(classes) if name in found]
    names += sorted(found - set(names))
    if len(names) <= MOST_CLASSES:
        return names
    errors: Counter[str] = Counter()
    for (label, predicted), count in confusion.counts.items():
        if label != predicted:
            errors[label] += count
            errors[predicted] += count
    chosen = set(sorted(names, key=lambda name: -errors[name])[:MOST_CLASSES])
    return [name for name in names if name in chosen]


def matrix(confusion: Confusion, names: list[str]) -> np.ndarray:
    """Returns int64 (labels, predicted): the number of images."""
    return np.array([[confusion.counts[label, predicted] for predicted in names] for label in names])
