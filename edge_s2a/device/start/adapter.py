"""Where a new adapter starts: where few images lead far."""

from collections.abc import Callable, Iterator

import numpy as np

from edge_s2a.artifact.manifest import Manifest
from edge_s2a.device.engine.base import Engine, Inputs
from edge_s2a.device.optim.accumulate import smoothed_target
from edge_s2a.device.start.head import start_at_class_means
from edge_s2a.device.start.lowrank import start_at_gradient


def start_adapter(
    engine: Engine,
    manifest: Manifest,
    batches: Callable[[], Iterator[tuple[Inputs, np.ndarray]]],
    gradients: dict[str, np.ndarray],
    label_smoothing: float,
    batch_size: int,
) -> int | None:
    """Sets the head to the class means of the images, and then the low-rank maps to the directions of their gradient;
    returns the number of images, None where the head may not start so: through one drawn at random the gradient says
    nothing. batches: iterates over (inputs, labels int (micro-batch,)), each time the same. Overwrites `gradients`."""
    if not manifest.head:
        return None

    def with_targets() -> Iterator[tuple[Inputs, np.ndarray]]:
        classes = manifest.num_classes
        return ((inputs, smoothed_target(labels, classes, label_smoothing, batch_size)) for inputs, labels in batches())

    count = start_at_class_means(engine, manifest.head, batches, gradients)
    if count and manifest.low_rank_maps:
        start_at_gradient(engine, manifest.low_rank_maps, with_targets, gradients)
    return count
