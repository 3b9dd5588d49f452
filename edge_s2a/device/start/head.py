"""Starts the head as the nearest-class-mean classifier of the backbone's features.

With f the features that the head reads, m_c their mean over class c and m the mean of these:

    logit_c = s (m_c - m) . (f - m) - s |m_c - m|^2 / 2,    s = MARGIN / mean over c of |m_c - m|^2

Until a random head is good, its gradient pulls the adapters in random directions; from few images a class it
hardly becomes as good as this one (a head before fine-tuning: Kumar et al., ICLR 2022; class means: Snell et al.,
NeurIPS 2017). The means take no graph of their own: where the head is zero and the target of an image is
1 / (images of its class), the gradient of its weight is a multiple of m - m_c.
"""

from collections.abc import Callable, Iterator

import numpy as np

from edge_s2a.device.engine.base import Engine, Inputs
from edge_s2a.device.engine.batches import logits_of, sum_gradients

MARGIN = 2.0
ROUNDING = 1e-4
# Adam moves each weight by the learning rate. The head starts where it separates the classes: at a rate that suits the
# adapters, which start from nothing, it fits the few images before the backbone's features have moved. Adapters did
# best at rates from 0.003 to 0.02, depending on model and data, and the head at about this one with all of them.
ADAM_RATE = 5e-4
IMAGES_PER_CLASS = 32  # are enough for a mean, however large the dataset


def relative_rates(heads: list[str], optimizer: str, lr: float) -> dict[str, float]:
    """For the optimizer: the share of the learning rate at which weight and bias of each head are trained."""
    share = min(1.0, ADAM_RATE / lr) if optimizer == "adamw" else 1.0
    return {f"{head}.{part}": share for head in heads for part in ("weight", "bias")}


def images_for_means(labels: np.ndarray, seed: int) -> np.ndarray:
    """Indices of at most IMAGES_PER_CLASS random images of each class; labels int (images,)."""
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = [order[labels[order] == label][:IMAGES_PER_CLASS] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def start_at_class_means(
    engine: Engine,
    heads: list[str],
    batches: Callable[[], Iterator[tuple[Inputs, np.ndarray]]],
    gradients: dict[str, np.ndarray],
) -> int:
    """Sets weight and bias of `heads`; returns the number of images read. Overwrites the heads' `gradients`.

    heads: layers whose mean is the logits. batches: iterates over (inputs of the engine, labels int (batch,)), each
    time the same. A class without images gets zeros; without two classes that differ the whole head does. Without
    any image the head stays as it is.
    """
    weights, biases = ([f"{head}.{part}" for head in heads] for part in ("weight", "bias"))
    counts = np.zeros(engine.classes, np.int64)
    for _, labels in batches():
        counts += np.bincount(labels, minlength=engine.classes)
    if not counts.any():
        return 0
    present = counts > 0
    per_image = 1 / np.maximum(counts, 1)

    def with_targets() -> Iterator[tuple[Inputs, np.ndarray]]:
        for inputs, labels in batches():
            target = np.zeros((len(labels), engine.classes), np.float32)
            target[np.arange(len(labels)), labels] = per_image[labels]
            yield inputs, target

    for name in (*weights, *biases):
        engine.adapter[name].fill(0)
    sum_gradients(engine, with_targets(), gradients, weights)
    for name in weights:
        centred = gradients[name][present]
        engine.adapter[name][present] = centred.mean(0) - centred

    middle, own = np.zeros(engine.classes), np.zeros(engine.classes)  # logits at m, and of each class at its mean
    for inputs, labels in batches():
        logits = logits_of(engine, inputs)
        middle += (logits * per_image[labels, None]).sum(0) / max(1, present.sum())
        np.add.at(own, labels, logits[np.arange(len(labels)), labels] * per_image[labels])
    squares = own - middle  # |m_c - m|^2, 0 without images
    # Where the classes' means differ by rounding alone, they tell nothing.
    differ = squares.sum() > ROUNDING * np.abs(middle).sum()
    scale = MARGIN / squares[present].mean() if differ else 0.0
    for name in weights:
        engine.adapter[name] *= np.float32(scale)
    for name in biases:
        engine.adapter[name][...] = -scale * (middle + squares / 2)
    return int(counts.sum())
