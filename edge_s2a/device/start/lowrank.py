"""Starts low-rank maps at the directions in which the loss falls fastest.

A map B A beside a layer, with B = 0, trains A (rank, inputs) only as fast as B (outputs, rank) grows: for a few hundred
steps it reads little but the random directions with which it was initialised. The gradient of the full matrix that it
stands for, G = sum of dy xT (outputs, inputs), says which directions of x matter. Here A becomes the first `rank` right
singular vectors of G (LoRA-GA, arXiv 2407.05000, initialises LoRA with them), and B stays 0, so that the model's output
does not change.

G itself is never computed. The training graph's gradient of B is G AT, a sketch of G's range; with B its orthonormal
basis Q and A = 0, the gradient of A is QT G (Halko, Martinsson, Tropp 2011: randomised singular value decomposition).
"""

import numpy as np

from edge_s2a.device.engine.base import Engine
from edge_s2a.device.engine.batches import Batches, sum_gradients


def start_at_gradient(
    engine: Engine,
    maps: list[str],
    batches: Batches,
    gradients: dict[str, np.ndarray],
) -> None:
    """Sets `<map>.down` (rank, inputs) and `<map>.up` (outputs, rank), zero again, for each of `maps`.

    batches: with target float32 (micro-batch, classes). A map of more rank than inputs or outputs stays as it is.
    Overwrites the maps' `gradients`.
    """
    adapter = engine.adapter
    downs, ups = ({name: f"{name}.{part}" for name in maps} for part in ("down", "up"))
    maps = [
        name
        for name in maps
        if len(adapter[downs[name]]) <= min(len(adapter[ups[name]]), adapter[downs[name]].shape[1])
    ]

    sum_gradients(engine, batches(), gradients, [ups[name] for name in maps])
    for name in maps:
        adapter[ups[name]][...] = np.linalg.qr(gradients[ups[name]])[0]
        adapter[downs[name]].fill(0)
    sum_gradients(engine, batches(), gradients, [downs[name] for name in maps])
    for name in maps:
        adapter[downs[name]][...] = right_singular_vectors(gradients[downs[name]])
        adapter[ups[name]].fill(0)


def right_singular_vectors(matrix: np.ndarray) -> np.ndarray:
    """The right singular vectors, (rank, n) orthonormal rows, of a matrix (rank, n). The largest element of each is
    positive: the sign, which is free, must not depend on rounding."""
    rows = np.linalg.svd(matrix, full_matrices=False)[2]
    largest = np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], 1)
    return rows * np.sign(largest)
