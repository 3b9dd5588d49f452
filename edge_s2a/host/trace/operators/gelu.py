"""GELU, exact and by tanh."""

import math

import torch
from torch import Tensor

from edge_s2a.host.trace.operators.pointwise import Pointwise
from edge_s2a.host.trace.saved_tensors import Difference, Mark

MARK = Mark("gelu", "levels", (-0.129, 1.129))
# The derivative takes ten operators, a difference three. Halfway between two inputs it is off by at most step / 2 times
# the second derivative, 0.8: a tenth of a step of 4 bits. The next smaller power of two would show float32's rounding.
STEP = 2.0**-6


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
    def function(x: Tensor) -> tuple[Tensor, Tensor, Mark]:
        y = torch.ops.aten.gelu(x, approximate=approximate)

        def difference() -> Tensor:
            with torch.no_grad():
                return torch.ops.aten.gelu(x + STEP, approximate=approximate) - y

        return y, derivative(x, approximate), MARK._replace(difference=Difference(difference, STEP))

    return Pointwise.apply(x, function)
