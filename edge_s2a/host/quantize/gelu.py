"""GELU whose backward pass multiplies by a low-bit code of the derivative."""

import math

import torch
from torch import Tensor

from edge_s2a.codec.reference import GATE_LEVELS
from edge_s2a.host.quantize.codes import decode_levels, encode_levels


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


class Gelu(torch.autograd.Function):
    """Saves a code of f'(x): its range is a property of the function, so no scale is stored (paper: codes
    "based on their derivatives"). Backward is one decode and one product."""

    @staticmethod
    def forward(ctx, x: Tensor, approximate: str, bits: int) -> Tensor:
        ctx.bits, ctx.n = bits, x.shape[-1]
        ctx.save_for_backward(encode_levels(derivative(x, approximate), bits, GATE_LEVELS))
        return torch.ops.aten.gelu(x, approximate=approximate)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (saved,) = ctx.saved_tensors
        return grad * decode_levels(saved, ctx.bits, ctx.n, GATE_LEVELS), None, None
