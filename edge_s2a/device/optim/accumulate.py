"""Accumulates the gradient of one effective batch over micro-batches of any size."""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from edge_s2a.device.data.collate import Collator, Prepared
from edge_s2a.device.engine.batches import training_steps
from edge_s2a.device.optim.clipping import gradient_norm


class BatchResult(NamedTuple):
    """Loss and gradient of a batch, before the update that its gradient makes."""

    loss: float  # mean over its images
    gradient_norm: float
    correct: int  # images whose likeliest class was right
    images: int

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


def accumulate(
    collator: Collator,
    images: Iterator[tuple[int, Prepared]],
    gradients: dict[str, np.ndarray],
    batch_size: int,
    label_smoothing: float,
    class_weights: np.ndarray | None = None,
) -> BatchResult:
    """Sets `gradients` to those of the mean loss over `images`, at most `batch_size` of (label, image), run in
    micro-batches as large as the collator's. class_weights: float32 (classes,), factors on the loss of an image.

    Every micro-batch's target is divided by the nominal batch size, so gradients simply add up; a batch of fewer images
    (the last of an epoch) is scaled to its true size afterwards. Raises ArenaExhausted if not even one image fits the
    engine's arena, EngineError where the engine fails otherwise.
    """
    for gradient in gradients.values():
        gradient.fill(0)
    loss, correct, count = 0.0, 0, 0
    while labels := _collect(collator, images):
        target = smoothed_target(labels, collator.engine.classes, label_smoothing, batch_size)
        if class_weights is not None:
            target *= class_weights[labels, None]
        for result, part in training_steps(collator.engine, collator.inputs(), target):
            for name, gradient in result.gradients.items():
                gradients[name] += gradient
            loss += result.loss
            correct += int((result.logits.argmax(-1) == part.argmax(-1)).sum())
            count += len(part)
    scale = batch_size / max(1, count)
    if scale != 1:
        for gradient in gradients.values():
            gradient *= np.float32(scale)
    return BatchResult(loss * scale, gradient_norm(gradients), correct, count)


def _collect(collator: Collator, images: Iterator[tuple[int, Prepared]]) -> list[int]:
    """Puts the next micro-batch into the collator; returns its labels, which are none when `images` are used up."""
    labels: list[int] = []
    for label, prepared in itertools.islice(images, len(collator.batch)):
        collator.add(prepared)
        labels.append(label)
    return labels


def smoothed_target(labels: list[int] | np.ndarray, classes: int, smoothing: float, batch_size: int) -> np.ndarray:
    """float32 (images, classes): smoothed labels (arXiv 1512.00567) divided by the nominal effective batch size."""
    target = np.full((len(labels), classes), smoothing / classes, np.float32)
    target[np.arange(len(labels)), labels] += 1 - smoothing
    return target / np.float32(batch_size)
