"""RMSNorm whose backward pass reads a low-bit code of the normalised input."""

import math

import torch
from torch import Tensor

from edge_s2a.host.quantize.codes import decode_groups, encode_groups


class NormalizeRootMeanSquare(torch.autograd.Function):
    """The non-parametric half of RMSNorm (arXiv 1910.07467): y = x r with r = 1 / sqrt(mean(x^2) + eps).

    Saves codes of y, and r, one float32 a row. With g the gradient that arrives: dx = (g - y mean(g y)) r.
    """

    @staticmethod
    def forward(ctx, x: Tensor, shape: list[int], eps: float, bits: int) -> Tensor:
        ctx.bits, ctx.n = bits, math.prod(shape)
        rows = x.reshape(-1, ctx.n)
        reciprocal_root = torch.rsqrt((rows * rows).mean(-1, keepdim=True) + eps)
        y = rows * reciprocal_root
        ctx.save_for_backward(reciprocal_root, *encode_groups(y, bits))
        return y.view(x.shape)

    @staticmethod
    def backward(ctx, grad: Tensor):
        reciprocal_root, *saved = ctx.saved_tensors
        y = decode_groups(saved, ctx.bits, ctx.n)
        g = grad.reshape(-1, ctx.n)
        dx = (g - y * (g * y).mean(-1, keepdim=True)) * reciprocal_root
        return dx.view(grad.shape), None, None, None


def rms_norm(x: Tensor, shape: list[int], weight: Tensor | None, eps: float | None, bits: int) -> Tensor:
    """RMSNorm with the affine half left to autograd."""
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    y = NormalizeRootMeanSquare.apply(x, list(shape), eps, bits)
    return y if weight is None else y * weight
