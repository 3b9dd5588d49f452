"""Divides the images of a dataset in two, class by class."""

import numpy as np

from edge_s2a.device.data.dataset import Dataset
from edge_s2a.device.data.present import present


def stratified(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """int64 (images,): the places, in order, of this share of the images of each class, rounded down, chosen at random.
    labels: int (images,)."""
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = [order[labels[order] == label] for label in present(labels)]
    return np.sort(np.concatenate([places[: int(share * len(places))] for places in by_class]))


def divided(dataset: Dataset, places: np.ndarray) -> tuple[Dataset, Dataset]:
    """(the images at other places, those at these)."""
    rest = np.ones(len(dataset), bool)
    rest[places] = False
    return dataset.part(np.flatnonzero(rest)), dataset.part(places)
