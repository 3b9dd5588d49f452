"""Reads the images of a folder or a .npz for a training: in the order of seed and epoch, in a thread of their own."""

import contextlib
import functools
from collections.abc import Generator, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from edge_s2a.device.checkpoint import Position
from edge_s2a.device.data.balance import balanced_order
from edge_s2a.device.data.collate import Prepared
from edge_s2a.device.data.dataset import Dataset
from edge_s2a.device.data.loader import queue_capacity, stream
from edge_s2a.device.data.micro_batches import read_batches
from edge_s2a.device.engine.base import Inputs
from edge_s2a.device.evaluate import evaluate
from edge_s2a.device.runtime import Runtime


class DatasetImages:
    """The `Images` of a dataset. Which image comes when, and its augmentation, follow from seed and epoch."""

    is_exhausted = False

    def __init__(self, dataset: Dataset, runtime: Runtime, augment: str = "none", seed: int = 0, balance: bool = False):
        """balance: shows images of each class equally often."""
        self.dataset, self.runtime, self.augment, self.seed = dataset, runtime, augment, seed
        self.balance = balance
        self.count, self.where, self.labels = len(dataset), dataset.where, dataset.labels

    def epoch(self, position: Position) -> Generator[tuple[int, Prepared], None, None]:
        seed = (self.seed, position.epoch)
        rng, before = np.random.default_rng(seed), position.images
        order = (balanced_order(self.labels, rng) if self.balance else rng.permutation(self.count))[before:]
        load = functools.partial(self.runtime.collator.load, self.dataset, augment=self.augment, seed=seed)
        capacity = queue_capacity(self.runtime.plan.micro_batch_size)
        with contextlib.closing(stream(self.dataset, order, load, capacity)) as ready:
            for place, index, prepared in ready:
                position.images = before + place + 1
                yield int(self.labels[index]), prepared
        position.images = self.count

    def batches(self, indices: Sequence[int]) -> Iterator[tuple[Inputs, np.ndarray]]:
        for chosen, inputs in read_batches(self.dataset, indices, self.runtime.collator):
            yield inputs, self.labels[chosen].astype(np.int64)

    def evaluate(self, predictions: BinaryIO | None = None) -> dict[str, Any]:
        return evaluate(self.runtime.logits, self.runtime.collator, self.dataset, predictions)

    def skipped(self) -> dict[str, str]:
        return self.dataset.skipped_names()
