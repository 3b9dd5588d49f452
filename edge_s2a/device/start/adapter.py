"""Starts a new adapter at a point from which few images lead far."""

from collections.abc import Iterator

import numpy as np

from edge_s2a.artifact.manifest import Manifest
from edge_s2a.device.engine.base import Engine, Inputs
from edge_s2a.device.engine.batches import Batches
from edge_s2a.device.optim.accumulate import smoothed_target
from edge_s2a.device.start.head import start_at_class_means
from edge_s2a.device.start.lowrank import start_at_gradient


def start_adapter(
    engine: Engine,
    manifest: Manifest,
    batches: Batches,
    gradients: dict[str, np.ndarray],
    label_smoothing: float,
    batch_size: int,
) -> int | None:
    """Sets the head to the class means of the images, and then the low-rank maps to the directions of their gradient.

    Returns the number of images; None for an artifact whose head cannot start so: the gradient through a random head
    says nothing. batches: with labels int (micro-batch,). Overwrites `gradients`.
    """
    if not manifest.head:
        return None

    def with_targets() -> Iterator[tuple[Inputs, np.ndarray]]:
        classes = manifest.num_classes
        return ((inputs, smoothed_target(labels, classes, label_smoothing, batch_size)) for inputs, labels in batches())

    count = start_at_class_means(engine, manifest.head, batches, gradients)
    if count and manifest.low_rank_maps:
        start_at_gradient(engine, manifest.low_rank_maps, with_targets, gradients)
    return count
