"""Accuracy and loss over a dataset, and predictions for single images."""

from pathlib import Path

import numpy as np

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.batches import logits_of, read_batches
from edge_s2a.device.data import NO_LIMIT, Dataset, Sample
from edge_s2a.device.session import Engine


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float32 (batch, classes) -> float32 (batch, classes)."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


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
    everything = range(len(dataset.samples))
    for indices in read_batches(dataset, everything, preprocessing, batch, decode_limit_bytes):
        logits = logits_of(engine, batch[: len(indices)])
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
    for indices in read_batches(dataset, range(len(images)), preprocessing, batch):
        logits = logits_of(engine, batch[: len(indices)])
        for index, row in zip(indices, np.exp(log_softmax(logits)), strict=True):
            best = np.argsort(-row)[:top]
            predictions = [{"label": classes[k], "probability": float(row[k])} for k in best]
            results.append({"image": str(images[index]), "predictions": predictions})
    return results, dataset.skipped
