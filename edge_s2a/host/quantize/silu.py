"""SiLU whose backward pass multiplies by a low-bit code of the derivative."""

import torch
from torch import Tensor

from edge_s2a.codec.reference import GATE_LEVELS
from edge_s2a.host.quantize.codes import decode_levels, encode_levels


class Silu(torch.autograd.Function):
    """x s with s = sigmoid(x). Saves a code of the derivative s (1 + x (1 - s)), as `Gelu` does."""

    @staticmethod
    def forward(ctx, x: Tensor, bits: int) -> Tensor:
        ctx.bits, ctx.n = bits, x.shape[-1]
        gate = torch.sigmoid(x)
        y = x * gate
        ctx.save_for_backward(encode_levels(gate + y * (1 - gate), bits, GATE_LEVELS))
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):
        (saved,) = ctx.saved_tensors
        return grad * decode_levels(saved, ctx.bits, ctx.n, GATE_LEVELS), None
