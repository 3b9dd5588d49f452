"""The graph between capture and ONNX: plain data that passes read and rewrite.

Nodes stand in the order in which the device runs them, which decides the peak memory.
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from edge_s2a.errors import UserError

FLOAT32: np.dtype = np.dtype(np.float32)
INT64: np.dtype = np.dtype(np.int64)
BOOL: np.dtype = np.dtype(np.bool_)
UINT8: np.dtype = np.dtype(np.uint8)
UINT4: np.dtype = np.dtype(ml_dtypes.uint4)  # a byte per value in numpy, half a byte in ONNX
VIEW = "Reshape"  # the one operator that moves no value; a target must run it without a copy


class Batch(NamedTuple):
    """A dimension of `times` x batch size. A tensor has at most one."""

    times: int


Dimension = int | Batch


def fixed(size: Dimension) -> int:
    """A size that a lowering computes with. Raises UserError for one that depends on the batch."""
    if isinstance(size, Batch):
        raise UserError("the model cuts, pads or convolves along its batch, which has no lowering to ONNX yet")
    return size


def fixed_sizes(shape: tuple[Dimension, ...]) -> tuple[int, ...]:
    return tuple(fixed(size) for size in shape)


class TensorType(NamedTuple):
    dtype: np.dtype
    shape: tuple[Dimension, ...]

    def bytes_per_image(self) -> int:
        """Bytes per image; 0 where the size does not depend on the batch."""
        return self._bytes() if self.is_batched() else 0

    def bytes_constant(self) -> int:
        """Bytes of a tensor whose size does not depend on the batch; otherwise 0."""
        return 0 if self.is_batched() else self._bytes()

    def bytes(self, batch: int) -> int:
        return self.bytes_per_image() * batch + self.bytes_constant()

    def is_batched(self) -> bool:
        return any(isinstance(dimension, Batch) for dimension in self.shape)

    def _bytes(self) -> int:
        values = math.prod(d.times if isinstance(d, Batch) else d for d in self.shape)
        return -(-values // 2) if self.dtype == UINT4 else values * self.dtype.itemsize


@dataclass
class Node:
    """One ONNX operator. `domain` is "" or "com.microsoft"; an empty input name is an absent input."""

    operator: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    domain: str = ""
    is_backward: bool = False


@dataclass
class Graph:
    """Inputs, constants and node outputs share one namespace; `types` covers all of it."""

    name: str
    inputs: list[str]
    outputs: list[str]
    nodes: list[Node]
    constants: dict[str, np.ndarray]
    types: dict[str, TensorType]
