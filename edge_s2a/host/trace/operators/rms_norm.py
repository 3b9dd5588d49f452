"""RMSNorm whose backward pass reads the normalised input."""

from typing import Any

import torch
from torch import Tensor

from edge_s2a.host.trace.operators.layer_norm import DEVIATION, NORMALIZED, affine
from edge_s2a.host.trace.saved_tensors import mark


class NormalizeRootMeanSquare(torch.autograd.Function):
    """The non-parametric half of RMSNorm (arXiv 1910.07467): y = x r with r = 1 / sqrt(mean(x^2) + eps).

    Saves y, and r, one value a row. With g the gradient that arrives: dx = (g - y mean(g y)) r.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        reciprocal_root = torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)
        y = x * reciprocal_root
        ctx.save_for_backward(mark(y, NORMALIZED), mark(reciprocal_root, DEVIATION))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, reciprocal_root = ctx.saved_tensors
        return (grad - y * (grad * y).mean(-1, keepdim=True)) * reciprocal_root, None


def rms_norm(x: Tensor, normalized_shape: list[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """RMSNorm with the affine half left to autograd."""
    shape = x.shape
    rows = x.flatten(-len(normalized_shape)) if len(normalized_shape) > 1 else x
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return affine(NormalizeRootMeanSquare.apply(rows, eps).view(shape), weight, None)
