"""Frozen weights in less memory than they take: those that one call reads are read from the file into a buffer that all
calls share.

A mapped file would be resident by as much as the system's page cache maps at once: 64 KiB, or 2 MiB where a file system
caches huge pages. What a buffer takes is known beforehand.
"""

from typing import NamedTuple

import numpy as np

from edge_s2a.artifact.archive import WEIGHTS, Artifact
from edge_s2a.artifact.program import Call

ALIGNMENT = 64  # of each weight in the buffer: a cache line


class Placed(NamedTuple):
    """A weight's place in the weights member, and the array that it is read into."""

    name: str
    offset: int
    array: np.ndarray


def streamed_bytes(weights: dict[str, np.ndarray], call: Call) -> int:
    """What the weights that `call` reads take in the buffer."""
    return sum(_aligned(weights[name].nbytes) for name in set(call.inputs).intersection(weights))


class WeightStream:
    """Reads the weights of one call at a time."""

    def __init__(self, artifact: Artifact, weights: dict[str, np.ndarray], mapping: np.ndarray, calls: list[Call]):
        """weights: views of `mapping`, uint8 (bytes,), the weights member; only their places are kept."""
        self._artifact = artifact
        base = _address(mapping)
        self._places = {name: (_address(array) - base, array.dtype, array.shape) for name, array in weights.items()}
        self._buffer = np.empty(max(streamed_bytes(weights, call) for call in calls), np.uint8)

    def place(self, call: Call) -> list[Placed]:
        """The weights that `call` reads, one after the other in the buffer, in the order of the file."""
        names = sorted(set(call.inputs).intersection(self._places), key=lambda name: self._places[name][0])
        placed, start = [], 0
        for name in names:
            offset, dtype, shape = self._places[name]
            end = start + dtype.itemsize * int(np.prod(shape))
            placed.append(Placed(name, offset, self._buffer[start:end].view(dtype).reshape(shape)))
            start = _aligned(end)
        return placed

    def read(self, placed: list[Placed]) -> None:
        """Raises UserError where the file no longer has them."""
        for weight in placed:
            self._artifact.read_into(WEIGHTS, weight.offset, weight.array)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
