"""Measures accuracy and loss on labelled images, and predicts the classes of others."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edge_s2a.device.data.dataset import Dataset, Sample, printable
from edge_s2a.device.data.micro_batches import read_batches
from edge_s2a.device.engine.base import Engine, Inputs
from edge_s2a.device.engine.batches import logits_of
from edge_s2a.device.runtime import Runtime
from edge_s2a.run.schema import PredictionLine
from edge_s2a.run.writer import json_line


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities: float32 (batch, classes) of logits float32 (batch, classes)."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def score(logits: np.ndarray, labels: np.ndarray) -> tuple[int, float]:
    """(images whose likeliest class is right, sum of their cross-entropies without label smoothing) of logits float32
    (images, classes) and labels int (images,)."""
    right = int((logits.argmax(-1) == labels).sum())
    return right, -float(log_softmax(logits)[np.arange(len(labels)), labels].sum())


def evaluate(runtime: Runtime, dataset: Dataset, predictions: BinaryIO | None = None) -> dict[str, Any]:
    """Evaluates all images of a dataset; see `evaluate_batches`."""
    labels = np.array([sample.label for sample in dataset.samples])
    batches = (
        ([image_name(dataset, index) for index in indices], inputs, labels[indices])
        for indices, inputs in read_batches(dataset, range(len(dataset.samples)), runtime.collator)
    )
    return evaluate_batches(runtime.engine, batches, dataset.classes, predictions)


def evaluate_batches(
    engine: Engine,
    batches: Iterable[tuple[list[str], Inputs, np.ndarray]],
    classes: list[str],
    predictions: BinaryIO | None = None,
) -> dict[str, Any]:
    """Returns {"accuracy", "count", "loss"}: share of images whose likeliest class is right, images read, and mean
    cross-entropy without label smoothing. Accuracy and loss are None where no image could be read, the loss also where
    it is not finite.

    batches: (names, inputs, labels int (images,)). predictions: gets a line per image, as RUN/predictions.jsonl has it
    (docs/RUN.md); only for it names are needed.
    """
    correct, count, loss = 0, 0, 0.0
    for names, inputs, labels in batches:
        logits = logits_of(engine, inputs)
        right, loss_sum = score(logits, labels)
        correct, loss, count = correct + right, loss + loss_sum, count + len(labels)
        if predictions is not None:
            predictions.writelines(prediction_lines(names, labels, logits, classes))
    return {
        "accuracy": correct / count if count else None,
        "count": count,
        "loss": loss / count if count and math.isfinite(loss) else None,
    }


def prediction_lines(names: list[str], labels: np.ndarray, logits: np.ndarray, classes: list[str]) -> Iterator[bytes]:
    """Yields the line of each image. logits: float32 (images, classes)."""
    probabilities = np.exp(log_softmax(logits))
    for name, label, best, row in zip(names, labels, logits.argmax(-1), probabilities, strict=True):
        probability = float(row[best])
        line = PredictionLine(
            image=name,
            label=classes[label],
            predicted=classes[best],
            probability=probability if math.isfinite(probability) else None,
        )
        yield json_line(line).encode()


def image_name(dataset: Dataset, index: int) -> str:
    """The path of image `index` below the data's folder, which may be moved; or its number in a .npz."""
    source = dataset.samples[index].source
    if isinstance(source, Path) and source.is_relative_to(dataset.where):
        source = source.relative_to(dataset.where)
    return printable(str(source))


def predict(runtime: Runtime, images: list[Path], classes: list[str], top: int) -> tuple[list[dict], dict[str, str]]:
    """Returns ([{"image", "predictions": [{"label", "probability"}, ...]}, ...], {unreadable image: reason}), with the
    `top` likeliest classes of each image."""
    dataset = Dataset(Path(), classes, [Sample(path, 0) for path in images])
    results = []
    for indices, logits in all_logits(runtime, dataset):
        for index, row in zip(indices, np.exp(log_softmax(logits)), strict=True):
            best = np.argsort(-row)[:top]
            predictions = [{"label": classes[k], "probability": float(row[k])} for k in best]
            results.append({"image": printable(images[index]), "predictions": predictions})
    return results, dataset.skipped_names()


def all_logits(runtime: Runtime, dataset: Dataset) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yields (indices, logits float32 (indices, classes)) of all readable images, in micro-batches."""
    for indices, inputs in read_batches(dataset, range(len(dataset.samples)), runtime.collator):
        yield indices, logits_of(runtime.engine, inputs)
