"""Streams frozen weights from the file: each call's weights are read, before it runs, into one buffer that all calls
share.

Pages of a mapped file would become resident in units that the system chooses: 64 KiB, or 2 MiB where a file system
caches huge pages. The size of a buffer is known beforehand.
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
    """Bytes in the buffer of the weights that `call` reads."""
    return sum(_aligned(weights[name].nbytes) for name in set(call.inputs).intersection(weights))


class WeightStream:
    """Reads the weights of one call at a time."""

    def __init__(self, artifact: Artifact, weights: dict[str, np.ndarray], mapping: np.ndarray, calls: list[Call]):
        """mapping: the weights member, uint8 (bytes,). weights: views of it, of which only the places are kept. calls:
        all that will be read for; the one with the largest weights decides the buffer's size."""
        self._artifact = artifact
        base = _address(mapping)
        self._places = {name: (_address(array) - base, array.dtype, array.shape) for name, array in weights.items()}
        self._buffer = np.empty(max(streamed_bytes(weights, call) for call in calls), np.uint8)

    def place(self, call: Call) -> list[Placed]:
        """Where the weights that `call` reads will be: one after the other in the buffer, in the order of the file."""
        names = sorted(set(call.inputs).intersection(self._places), key=lambda name: self._places[name][0])
        placed, start = [], 0
        for name in names:
            offset, dtype, shape = self._places[name]
            end = start + dtype.itemsize * int(np.prod(shape))
            placed.append(Placed(name, offset, self._buffer[start:end].view(dtype).reshape(shape)))
            start = _aligned(end)
        return placed

    def read(self, placed: list[Placed]) -> None:
        """Reads these weights into their places. Raises UserError if the file has become shorter."""
        for weight in placed:
            self._artifact.read_into(WEIGHTS, weight.offset, weight.array)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
