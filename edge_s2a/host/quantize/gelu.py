"""GELU, exact and by tanh."""

import math

import torch
from torch import Tensor

from edge_s2a.host.quantize.pointwise import Pointwise
from edge_s2a.host.quantize.saved import Mark

MARK = Mark("gelu", "levels", (-0.129, 1.129))


def derivative(x: Tensor, approximate: str) -> Tensor:
    """f'(x). Exact: Phi(x) + x phi(x) with the normal distribution function and density.
    "tanh": of 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    if approximate == "none":
        distribution = torch.erf(x * math.sqrt(0.5)) * 0.5 + 0.5
        density = torch.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
        return distribution + x * density
    beta = math.sqrt(2 / math.pi)
    square = x * x
    tanh = torch.tanh((square * 0.044715 + 1) * x * beta)
    inner = (square * (3 * 0.044715) + 1) * beta
    return tanh * 0.5 + 0.5 + (1 - tanh * tanh) * x * inner * 0.5


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ops.aten.gelu(x, approximate=approximate), derivative(x, approximate)

    return Pointwise.apply(x, function, MARK)
