"""Sigmoid and tanh."""

import torch
from torch import Tensor

from edge_s2a.host.trace.operators.pointwise import Pointwise
from edge_s2a.host.trace.saved_tensors import Mark

SIGMOID = Mark("sigmoid", "levels", (0.0, 0.25))
TANH = Mark("tanh", "levels", (0.0, 1.0))


def sigmoid(x: Tensor) -> Tensor:
    """s = 1 / (1 + exp(-x)); the derivative is s (1 - s)."""

    def function(x: Tensor) -> tuple[Tensor, Tensor, Mark]:
        y = torch.sigmoid(x)
        return y, y * (1 - y), SIGMOID

    return Pointwise.apply(x, function)


def tanh(x: Tensor) -> Tensor:
    """The derivative is 1 - tanh(x)^2."""

    def function(x: Tensor) -> tuple[Tensor, Tensor, Mark]:
        y = torch.tanh(x)
        return y, 1 - y * y, TANH

    return Pointwise.apply(x, function)
