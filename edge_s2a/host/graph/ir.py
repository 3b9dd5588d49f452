"""The graph between capture and ONNX: plain data that passes read and rewrite.

Nodes stand in execution order: the device runs them in this order, so it decides the peak memory.
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

UINT8 = np.dtype(np.uint8)
UINT4 = np.dtype(ml_dtypes.uint4)  # a byte a value in numpy, half a byte in the engine
VIEW = "Reshape"  # the operator whose output the engine lays over its input


class Batch(NamedTuple):
    """A dimension of `times` x batch size. A tensor has at most one."""

    times: int


Dimension = int | Batch


class TensorType(NamedTuple):
    dtype: np.dtype
    shape: tuple[Dimension, ...]

    def bytes_per_image(self) -> int:
        """Bytes for each image of the batch; 0 where the size does not depend on the batch."""
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
