"""Accuracy and loss over a dataset, and predictions for single images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.data import NO_LIMIT, Dataset, Sample, load_pixels, normalize
from edge_s2a.device.loader import stream
from edge_s2a.device.session import Engine
from edge_s2a.errors import ArenaExhausted


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float32 (batch, classes) -> float32 (batch, classes)."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def run_dataset(
    engine: Engine,
    dataset: Dataset,
    preprocessing: Preprocessing,
    batch: np.ndarray,
    decode_limit_bytes: int = NO_LIMIT,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """(indices, logits) for each micro-batch of the readable images of `dataset`, in order.

    batch: float32 (micro-batch, 3, height, width), overwritten.
    """

    def load(index: int) -> np.ndarray:
        return load_pixels(dataset, index, preprocessing, decode_limit_bytes=decode_limit_bytes)

    indices: list[int] = []
    for index, pixels in stream(dataset, range(len(dataset.samples)), load, len(batch)):
        normalize(pixels, preprocessing, batch[len(indices)])
        indices.append(index)
        if len(indices) == len(batch):
            yield indices, logits_of(engine, batch)
            indices = []
    if indices:
        yield indices, logits_of(engine, batch[: len(indices)])


def logits_of(engine: Engine, batch: np.ndarray) -> np.ndarray:
    """The engine's logits, in halves where its arena does not hold the whole batch."""
    try:
        return engine.logits(batch)
    except ArenaExhausted:
        if len(batch) == 1:
            raise
        half = len(batch) // 2
        return np.concatenate([logits_of(engine, batch[:half]), logits_of(engine, batch[half:])])


def evaluate(
    engine: Engine,
    dataset: Dataset,
    preprocessing: Preprocessing,
    batch: np.ndarray,
    decode_limit_bytes: int = NO_LIMIT,
) -> dict:
    """{"accuracy", "count", "loss"}: share of images whose likeliest class is right, images read, and
    mean cross-entropy without label smoothing. Both are None where no image could be read."""
    correct, count, loss = 0, 0, 0.0
    for indices, logits in run_dataset(engine, dataset, preprocessing, batch, decode_limit_bytes):
        labels = np.array([dataset.samples[index].label for index in indices])
        correct += int((logits.argmax(-1) == labels).sum())
        loss -= float(log_softmax(logits)[np.arange(len(labels)), labels].sum())
        count += len(labels)
    return {
        "accuracy": correct / count if count else None,
        "count": count,
        "loss": loss / count if count else None,
    }


def predict(
    engine: Engine,
    images: list[Path],
    classes: list[str],
    preprocessing: Preprocessing,
    batch: np.ndarray,
    top: int,
) -> tuple[list[dict], dict[str, str]]:
    """([{"image", "predictions": [{"label", "probability"}, ...]}, ...], {unreadable image: reason})."""
    dataset = Dataset(Path(), classes, [Sample(path, 0) for path in images])
    results = []
    for indices, logits in run_dataset(engine, dataset, preprocessing, batch):
        for index, row in zip(indices, np.exp(log_softmax(logits)), strict=True):
            best = np.argsort(-row)[:top]
            predictions = [{"label": classes[k], "probability": float(row[k])} for k in best]
            results.append({"image": str(images[index]), "predictions": predictions})
    return results, dataset.skipped
