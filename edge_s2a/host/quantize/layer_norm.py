"""LayerNorm whose backward pass reads a low-bit code of the normalised input."""

import math

import torch
from torch import Tensor

from edge_s2a.host.quantize.codes import decode_groups, encode_groups


class Normalize(torch.autograd.Function):
    """The non-parametric half of LayerNorm: (x - mean) / sqrt(variance + eps) over the last axes.

    Saves codes of the result and the reciprocal deviation, one float32 a row. With y the result, g the
    gradient that arrives and means taken over a row: dx = (g - mean(g) - y mean(g y)) / deviation.
    """

    @staticmethod
    def forward(ctx, x: Tensor, shape: list[int], eps: float, bits: int) -> Tensor:
        ctx.bits, ctx.n = bits, math.prod(shape)
        y, _, reciprocal_deviation = torch.ops.aten.native_layer_norm(x, shape, None, None, eps)
        ctx.save_for_backward(reciprocal_deviation.reshape(-1, 1), *encode_groups(y.reshape(-1, ctx.n), bits))
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):
        reciprocal_deviation, *saved = ctx.saved_tensors
        y = decode_groups(saved, ctx.bits, ctx.n)
        g = grad.reshape(-1, ctx.n)
        projected = y * (g * y).mean(-1, keepdim=True)
        dx = (g - g.mean(-1, keepdim=True) - projected) * reciprocal_deviation
        return dx.view(grad.shape), None, None, None


def layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float, bits: int
) -> Tensor:
    """LayerNorm with the affine half left to autograd, which saves nothing for a trainable bias."""
    y = Normalize.apply(x, list(shape), eps, bits)
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias
