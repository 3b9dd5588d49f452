"""Measures accuracy and loss on labelled images, and predicts the classes of others."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from edge_s2a.device.data.collate import Collator
from edge_s2a.device.data.dataset import Dataset
from edge_s2a.device.data.micro_batches import read_batches
from edge_s2a.device.engine.base import Inputs
from edge_s2a.run.schema import PredictionLine
from edge_s2a.run.writer import json_line


class Evaluation(NamedTuple):
    """The quality of an adapter on labelled images."""

    accuracy: float  # share of images whose likeliest class is right
    loss: float  # mean cross-entropy, without label smoothing; NaN where it is not finite
    images: int
    balanced_accuracy: float  # mean of the recalls
    recall: dict[str, float]  # class -> share of its images that are right; without classes that have none


class Prediction(NamedTuple):
    """A class of an image."""

    label: str
    probability: float


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities: float32 (batch, classes) of logits float32 (batch, classes)."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def likeliest(classes: list[str], logits: np.ndarray, top: int) -> list[Prediction]:
    """The `top` likeliest classes of an image, the likeliest first. logits: float32 (classes,)."""
    probabilities = np.exp(log_softmax(logits[None]))[0]
    return [Prediction(classes[k], float(probabilities[k])) for k in np.argsort(-probabilities)[:top]]


def score(logits: np.ndarray, labels: np.ndarray) -> tuple[int, float]:
    """(images whose likeliest class is right, sum of their cross-entropies without label smoothing) of logits float32
    (images, classes) and labels int (images,)."""
    right = int((logits.argmax(-1) == labels).sum())
    return right, -float(log_softmax(logits)[np.arange(len(labels)), labels].sum())


Logits = Callable[[Inputs], np.ndarray]
"""float32 (batch, classes) of a micro-batch: scores whose softmax are the probabilities of the classes."""


def evaluate(
    logits: Logits, collator: Collator, dataset: Dataset, predictions: BinaryIO | None = None
) -> dict[str, Any]:
    """Evaluates all images of a dataset; see `evaluate_batches`."""
    batches = (
        ([dataset.name(index) for index in indices], inputs, dataset.labels[indices].astype(np.int64))
        for indices, inputs in read_batches(dataset, range(len(dataset)), collator)
    )
    return evaluate_batches(logits, batches, dataset.classes, predictions)


def evaluate_batches(
    logits_of: Logits,
    batches: Iterable[tuple[list[str], Inputs, np.ndarray]],
    classes: list[str],
    predictions: BinaryIO | None = None,
) -> dict[str, Any]:
    """Returns {"accuracy", "count", "loss", "balanced_accuracy", "recall"}: share of images whose likeliest class is
    right, images read, mean cross-entropy without label smoothing, and of the classes that have images the mean of
    their recalls, and {class: recall}. Accuracies and loss are None where no image could be read, the loss also where
    it is not finite.

    batches: (names, inputs, labels int (images,)). predictions: gets a line per image, as RUN/predictions.jsonl has it
    (docs/RUN.md); only for it names are needed.
    """
    loss = 0.0
    right, images = np.zeros(len(classes), np.int64), np.zeros(len(classes), np.int64)  # by class
    for names, inputs, labels in batches:
        logits = logits_of(inputs)
        loss += score(logits, labels)[1]
        images += np.bincount(labels, minlength=len(classes))
        right += np.bincount(labels[logits.argmax(-1) == labels], minlength=len(classes))
        if predictions is not None:
            predictions.writelines(prediction_lines(names, labels, logits, classes))
    count = int(images.sum())
    recall = {classes[number]: int(right[number]) / int(images[number]) for number in np.flatnonzero(images)}
    return {
        "accuracy": int(right.sum()) / count if count else None,
        "count": count,
        "loss": loss / count if count and math.isfinite(loss) else None,
        "balanced_accuracy": sum(recall.values()) / len(recall) if count else None,
        "recall": recall,
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
