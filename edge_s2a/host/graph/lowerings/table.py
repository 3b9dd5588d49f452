"""The table of lowerings: ATen operator -> the function that appends its ONNX operators to the graph."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import SymInt, Tensor, fx

from edge_s2a.errors import UserError
from edge_s2a.host.graph.ir import Batch, Dimension, TensorType

DTYPES = {
    torch.float32: np.dtype(np.float32),
    torch.float16: np.dtype(np.float16),
    torch.uint8: np.dtype(np.uint8),
    torch.int64: np.dtype(np.int64),
    torch.bool: np.dtype(np.bool_),
}
FLOAT32 = DTYPES[torch.float32]
INT64 = DTYPES[torch.int64]

# A lowering takes the Lowering, the torch node and its arguments, tensors being names of values, and returns the
# name of its result, or a list of names.
LOWERINGS: dict[Any, Callable] = {}


def lowers(*targets: Any) -> Callable:
    def register(function: Callable) -> Callable:
        for target in targets:
            LOWERINGS[target] = function
        return function

    return register


def tensor_type(example: Tensor) -> TensorType:
    return TensorType(DTYPES[example.dtype], tuple(dimension(size) for size in example.shape))


def dimension(size: int | SymInt) -> Dimension:
    if not isinstance(size, SymInt):
        return size
    expression = size.node.expr
    if expression.is_number:
        return int(expression)
    (symbol,) = expression.free_symbols
    times = expression / symbol
    if not times.is_number:
        raise UserError(f"a dimension of {expression} is not a multiple of the batch size")
    return Batch(int(times))


def result_type(node: fx.Node) -> TensorType:
    return tensor_type(node.meta["val"])
