"""Starts the head as the nearest-class-mean classifier of the backbone's features.

With f the features that the head reads, m_c their mean over class c and m the mean of all m_c:

    logit_c = s (m_c - m) . (f - m) - s |m_c - m|^2 / 2,    s = MARGIN / mean over c of |m_c - m|^2

Until a random head is good, its gradient pulls the adapters in random directions; with few images per class it hardly
becomes as good as this one (training the head before fine-tuning: Kumar et al., ICLR 2022; class means: Snell et al.,
NeurIPS 2017). The means need no graph of their own: where the head is zero and the target of an image is
1 / (images of its class), the gradient of the head's weight is a multiple of m - m_c.
"""

from collections.abc import Iterator

import numpy as np

from edge_s2a.device.data.present import present
from edge_s2a.device.engine.base import Engine, Inputs
from edge_s2a.device.engine.batches import Batches, logits_of, sum_gradients

MARGIN = 2.0
ROUNDING = 1e-4
# Adam moves each weight by the learning rate. The head starts where it separates the classes: at a rate that suits the
# adapters, which start at zero, it would fit the few images before the backbone's features have moved. Adapters did
# best at rates from 0.003 to 0.02, depending on model and data, and the head at about this one with all of them.
ADAM_RATE = 5e-4
IMAGES_PER_CLASS = 32  # enough for a mean, however large the dataset


def relative_rates(heads: list[str], optimizer: str, lr: float) -> dict[str, float]:
    """Factors on the learning rate for weight and bias of each head; see `optim.optimizer`."""
    share = min(1.0, ADAM_RATE / lr) if optimizer == "adamw" else 1.0
    return {f"{head}.{part}": share for head in heads for part in ("weight", "bias")}


def images_for_means(labels: np.ndarray, seed: int) -> np.ndarray:
    """Indices of at most IMAGES_PER_CLASS random images of each class; labels int (images,)."""
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = [order[labels[order] == label][:IMAGES_PER_CLASS] for label in present(labels)]
    return np.sort(np.concatenate(chosen))


def start_at_class_means(
    engine: Engine,
    heads: list[str],
    batches: Batches,
    gradients: dict[str, np.ndarray],
) -> int:
    """Sets weight and bias of `heads` to the class means; returns the number of images read.

    heads: layers whose mean is the logits. batches: with labels int (micro-batch,). A class without images gets zeros;
    so does the whole head unless two classes differ. Without any image the head stays as it is. Overwrites the heads'
    `gradients`.
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
    # Class means that differ only by rounding tell nothing.
    differ = squares.sum() > ROUNDING * np.abs(middle).sum()
    scale = MARGIN / squares[present].mean() if differ else 0.0
    for name in weights:
        engine.adapter[name] *= np.float32(scale)
    for name in biases:
        engine.adapter[name][...] = -scale * (middle + squares / 2)
    return int(counts.sum())
