"""The table of lowerings: ATen operator -> the function that appends its ONNX operators to a graph."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import SymInt, Tensor, fx

from edge_s2a.errors import UserError
from edge_s2a.host.graph.ir import BOOL, FLOAT32, INT64, UINT8, Batch, Dimension, TensorType

DTYPES: dict[torch.dtype, np.dtype] = {
    torch.float32: FLOAT32,
    torch.float16: np.dtype(np.float16),
    torch.uint8: UINT8,
    torch.int64: INT64,
    torch.bool: BOOL,
}

# What a torch node becomes: the name of a value, or of several, None standing for one that is not needed.
Lowered = str | list[str] | list[str | None]
# A lowering appends nodes to the graph and returns what they make. It is called with the graph, the torch node, and the
# node's arguments, in which names of values stand for tensors.
Lower = Callable[..., Lowered]
Function = TypeVar("Function", bound=Lower)

LOWERINGS: dict[Any, Lower] = {}


def lowers(*targets: Any) -> Callable[[Function], Function]:
    """Registers a function as the lowering of the ATen operators `targets`."""

    def register(function: Function) -> Function:
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
        raise UserError(
            f"the model makes a tensor with a dimension of {expression}, which is no multiple of the batch size; "
            "choose another model"
        )
    return Batch(int(times))


def result_type(node: fx.Node) -> TensorType:
    return tensor_type(node.meta["val"])
