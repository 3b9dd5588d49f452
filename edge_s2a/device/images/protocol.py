"""Defines what a training asks of its images, wherever they come from."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from edge_s2a.device.checkpoint import Position
from edge_s2a.device.data.collate import Prepared
from edge_s2a.device.engine.base import Inputs


class Images(Protocol):
    """Labelled images, pass after pass."""

    @property
    def count(self) -> int | None:
        """Images per pass; None where they are read once, and their number is not known."""

    @property
    def where(self) -> Path | None:
        """The folder or file they come from."""

    @property
    def labels(self) -> np.ndarray | None:
        """int (count,); None where they are not known either."""

    @property
    def is_exhausted(self) -> bool:
        """Whether no further pass will yield an image."""

    def epoch(self, position: Position) -> Generator[tuple[int, Prepared], None, None]:
        """Yields (label, image) of what remains of the current epoch and advances `position.images`."""

    def batches(self, indices: Sequence[int]) -> Iterator[tuple[Inputs, np.ndarray]]:
        """Yields (inputs, labels int (micro-batch,)) of the readable images of `indices`; inputs are valid until the
        next ones."""

    def evaluate(self, predictions: BinaryIO | None = None) -> dict[str, Any]:
        """As `evaluate.evaluate`, of all images."""

    def skipped(self) -> dict[str, str]:
        """Returns the images that could not be used, with the reason."""
