"""ReLU and its bounded and leaky forms: one bit a value."""

import torch
from torch import Tensor

from edge_s2a.host.trace.operators.pointwise import PiecewiseLinear


def relu(x: Tensor, inplace: bool = False) -> Tensor:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(x)
        return y, y  # not x, so that the engine may compute it in place of that

    return PiecewiseLinear.apply(x, function, (0.0, 1.0))


def hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.clamp(x, min_val, max_val)
        return y, (y > min_val) & (y < max_val)

    return PiecewiseLinear.apply(x, function, (0.0, 1.0))


def relu6(x: Tensor, inplace: bool = False) -> Tensor:
    return hardtanh(x, 0.0, 6.0)


def leaky_relu(x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.relu(x) - torch.relu(-x) * negative_slope, x

    return PiecewiseLinear.apply(x, function, (negative_slope, 1.0))
