"""Hard-swish and hard-sigmoid (arXiv 1905.02244)."""

import torch
from torch import Tensor

from edge_s2a.host.trace.operators.pointwise import PiecewiseLinear, Pointwise
from edge_s2a.host.trace.saved_tensors import Mark

MARK = Mark("hard_swish", "levels", (-0.5, 1.5))


def hard_swish(x: Tensor, inplace: bool = False) -> Tensor:
    """x clip(x + 3, 0, 6) / 6; the derivative is 0 below -3, 1 above 3, and (2 x + 3) / 6 between."""

    def function(x: Tensor) -> tuple[Tensor, Tensor, Mark]:
        gate = torch.clamp(x + 3, 0, 6) * (1 / 6)
        slope = ((gate > 0) & (gate < 1)).to(x.dtype) * (1 / 6)
        return x * gate, gate + x * slope, MARK

    return Pointwise.apply(x, function)


def hard_sigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    """clip(x + 3, 0, 6) / 6."""

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.clamp(x + 3, 0, 6) * (1 / 6)
        return y, (y > 0) & (y < 1)

    return PiecewiseLinear.apply(x, function, (0.0, 1 / 6))
