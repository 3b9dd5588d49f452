"""SiLU (swish)."""

import torch
from torch import Tensor

from edge_s2a.host.trace.operators.pointwise import Pointwise
from edge_s2a.host.trace.saved_tensors import Mark

MARK = Mark("silu", "levels", (-0.100, 1.100))


def silu(x: Tensor, inplace: bool = False) -> Tensor:
    """x s with s = sigmoid(x); the derivative is s (1 + x (1 - s))."""

    def function(x: Tensor) -> tuple[Tensor, Tensor, Mark]:
        gate = torch.sigmoid(x)
        y = x * gate
        return y, gate + y * (1 - gate), MARK

    return Pointwise.apply(x, function)
