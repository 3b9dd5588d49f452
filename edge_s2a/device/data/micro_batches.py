"""Reads a dataset in micro-batches."""

import functools
from collections.abc import Iterable, Iterator

from edge_s2a.device.data.collate import Collator
from edge_s2a.device.data.dataset import Dataset
from edge_s2a.device.data.loader import stream
from edge_s2a.device.engine.base import Inputs


def read_batches(dataset: Dataset, order: Iterable[int], collator: Collator) -> Iterator[tuple[list[int], Inputs]]:
    """Yields (indices, inputs) of micro-batches of the readable images of `order`. Inputs are valid until the next
    ones."""
    size = len(collator.batch)
    indices: list[int] = []
    for _, index, prepared in stream(dataset, order, functools.partial(collator.load, dataset), size):
        collator.add(prepared)
        indices.append(index)
        if len(indices) == size:
            yield indices, collator.inputs()
            indices = []
    if indices:
        yield indices, collator.inputs()
