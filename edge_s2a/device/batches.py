"""Micro-batches: reading them, and running them in halves where the engine's arena does not hold them whole."""

from collections.abc import Iterable, Iterator

import numpy as np

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.data import Dataset, load_pixels, normalize
from edge_s2a.device.loader import stream
from edge_s2a.device.session import Engine, StepResult
from edge_s2a.errors import ArenaExhausted


def read_batches(
    dataset: Dataset,
    order: Iterable[int],
    preprocessing: Preprocessing,
    batch: np.ndarray,
    decode_limit_bytes: int,
) -> Iterator[list[int]]:
    """Fills `batch`, float32 (micro-batch, 3, height, width), with the readable images of `order`, again and again;
    yields their indices, of which there may be fewer the last time."""

    def load(index: int) -> np.ndarray:
        return load_pixels(dataset, index, preprocessing, decode_limit_bytes=decode_limit_bytes)

    indices: list[int] = []
    for index, pixels in stream(dataset, order, load, len(batch)):
        normalize(pixels, preprocessing, batch[len(indices)])
        indices.append(index)
        if len(indices) == len(batch):
            yield indices
            indices = []
    if indices:
        yield indices


def training_steps(engine: Engine, images: np.ndarray, target: np.ndarray) -> Iterator[tuple[StepResult, np.ndarray]]:
    """(result, target) of the micro-batch, or of its halves: best fit in a nearly full arena may fail for a size
    where it does not for a larger one. Raises ArenaExhausted if it fails for one image."""
    try:
        yield engine.training_step(images, target), target
    except ArenaExhausted:
        if len(images) == 1:
            raise
        half = len(images) // 2
        yield from training_steps(engine, images[:half], target[:half])
        yield from training_steps(engine, images[half:], target[half:])


def sum_gradients(
    engine: Engine,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    gradients: dict[str, np.ndarray],
    names: list[str],
) -> None:
    """Sets gradients[name], for each of `names`, to the sum over all (images, target) of `batches`."""
    for name in names:
        gradients[name].fill(0)
    for images, target in batches:
        for result, _ in training_steps(engine, images, target):
            for name in names:
                gradients[name] += result.gradients[name]


def logits_of(engine: Engine, images: np.ndarray) -> np.ndarray:
    """float32 (batch, classes), likewise."""
    try:
        return engine.logits(images)
    except ArenaExhausted:
        if len(images) == 1:
            raise
        half = len(images) // 2
        return np.concatenate([logits_of(engine, images[:half]), logits_of(engine, images[half:])])
