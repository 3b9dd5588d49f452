"""Averages the answers of the closed form with those of a trained adapter.

The two err in different ways: the closed form reads several blocks of a backbone that has never seen the classes, the
adapter has changed the backbone for them. Logarithms of probabilities are averaged, with the share that held-out
training images chose (device/learned_start.py). Each image then passes through the backbone twice.
"""

import numpy as np

from edge_s2a.artifact.adapter import copy_into
from edge_s2a.artifact.knowledge import Trained
from edge_s2a.device.engine.base import Engine
from edge_s2a.device.engine.batches import taps_of
from edge_s2a.device.evaluate import log_softmax


class Average:
    """A trained adapter beside the closed form, on an engine that computes taps."""

    def __init__(self, engine: Engine, trained: Trained, classes: list[str]):
        """classes: those of the closed form, which are the adapter's in another order. The engine keeps the adapter
        that it has now."""
        self.trained = trained
        self._engine = engine
        self._order = [trained.classes.index(name) for name in classes]
        self._before = {name: array.copy() for name, array in engine.adapter.items()}

    def logits(self, learned: np.ndarray, image: np.ndarray) -> np.ndarray:
        """float32 (batch, classes) of the closed form's logits and the same images, float32 (batch, 3, height,
        width)."""
        copy_into(self._engine.adapter, self.trained.adapter)
        try:
            trained = taps_of(self._engine, image).logits
        finally:
            copy_into(self._engine.adapter, self._before)
        return averaged(learned, trained[:, self._order], self.trained.share)


def averaged(learned: np.ndarray, trained: np.ndarray, share: float) -> np.ndarray:
    """Logits of both together: (1 - share) log p_learned + share log p_trained, each float32 (images, classes)."""
    if share == 0:  # whatever the other says, be it that it is no number
        return log_softmax(learned)
    return (1 - np.float32(share)) * log_softmax(learned) + np.float32(share) * log_softmax(trained)


def average_bytes(trained: Trained | None) -> dict[str, int]:
    """What an Average takes, as part of a memory plan: the adapter, and a copy of the one before it."""
    return {} if trained is None else {"trained adapter": 2 * sum(array.nbytes for array in trained.adapter.values())}
