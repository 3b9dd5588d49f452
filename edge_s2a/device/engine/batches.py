"""Micro-batches: reading them, and running them in halves where the engine's arena does not hold them whole."""

import functools
from collections.abc import Iterable, Iterator

import numpy as np

from edge_s2a.device.data.collate import Collator
from edge_s2a.device.data.dataset import Dataset
from edge_s2a.device.data.loader import stream
from edge_s2a.device.engine.base import Engine, Inputs, StepResult, count_images, part_of
from edge_s2a.errors import ArenaExhausted


def read_batches(dataset: Dataset, order: Iterable[int], collator: Collator) -> Iterator[tuple[list[int], Inputs]]:
    """(indices, inputs) of micro-batches of the readable images of `order`; inputs are valid until the next ones."""
    size = len(collator.batch)
    indices: list[int] = []
    for index, prepared in stream(dataset, order, functools.partial(collator.load, dataset), size):
        collator.add(prepared)
        indices.append(index)
        if len(indices) == size:
            yield indices, collator.inputs()
            indices = []
    if indices:
        yield indices, collator.inputs()


def training_steps(engine: Engine, inputs: Inputs, target: np.ndarray) -> Iterator[tuple[StepResult, np.ndarray]]:
    """(result, target) of the micro-batch, or of its halves: best fit in a nearly full arena may fail for a size
    where it does not for a larger one. Raises ArenaExhausted if it fails for one image."""
    try:
        yield engine.training_step(inputs, target), target
    except ArenaExhausted:
        if len(target) == 1:
            raise
        for start, end in halves(len(target)):
            yield from training_steps(engine, part_of(inputs, start, end, engine.feature_shapes), target[start:end])


def halves(count: int) -> list[tuple[int, int]]:
    return [(0, count // 2), (count // 2, count)]


def sum_gradients(
    engine: Engine,
    batches: Iterable[tuple[Inputs, np.ndarray]],
    gradients: dict[str, np.ndarray],
    names: list[str],
) -> None:
    """Sets gradients[name], for each of `names`, to the sum over all (inputs, target) of `batches`."""
    for name in names:
        gradients[name].fill(0)
    for inputs, target in batches:
        for result, _ in training_steps(engine, inputs, target):
            for name in names:
                gradients[name] += result.gradients[name]


def logits_of(engine: Engine, inputs: Inputs) -> np.ndarray:
    """float32 (batch, classes), likewise."""
    try:
        return engine.logits(inputs)
    except ArenaExhausted:
        count = count_images(inputs, engine.feature_shapes)
        if count == 1:
            raise
        parts = [part_of(inputs, start, end, engine.feature_shapes) for start, end in halves(count)]
        return np.concatenate([logits_of(engine, part) for part in parts])
