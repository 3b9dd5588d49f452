"""Runs micro-batches, in halves where the engine's arena does not hold them whole."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from edge_s2a.device.engine.base import Engine, Inputs, StepResult, Taps, count_images, part_of
from edge_s2a.errors import ArenaExhausted

Batches = Callable[[], Iterator[tuple[Inputs, np.ndarray]]]
"""Iterates over (inputs, labels or target) of micro-batches, the same ones on each call."""


def training_steps(engine: Engine, inputs: Inputs, target: np.ndarray) -> Iterator[tuple[StepResult, np.ndarray]]:
    """Yields (result, target) of the micro-batch, or of parts of it.

    target: float32 (batch, classes). Best fit in a nearly full arena may fail for one batch size where it does not for
    a larger one; then the batch is halved. Raises ArenaExhausted if not even one image fits.
    """
    try:
        yield engine.training_step(inputs, target), target
    except ArenaExhausted:
        if len(target) == 1:
            raise
        for start, end in halves(len(target)):
            yield from training_steps(engine, part_of(inputs, start, end, engine.feature_shapes), target[start:end])


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


def taps_of(engine: Engine, image: np.ndarray) -> Taps:
    """Of images float32 (batch, 3, height, width), likewise."""
    try:
        return engine.taps(image)
    except ArenaExhausted:
        if len(image) == 1:
            raise
        parts = [taps_of(engine, image[start:end]) for start, end in halves(len(image))]
        return Taps(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def halves(count: int) -> list[tuple[int, int]]:
    """(start, end) of each half of `count` images."""
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
