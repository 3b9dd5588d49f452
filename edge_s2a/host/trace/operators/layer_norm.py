"""LayerNorm and GroupNorm whose backward pass reads the normalised input."""

from typing import Any

import torch
from torch import Tensor

from edge_s2a.host.trace.saved_tensors import Mark, derive, mark

NORMALIZED = Mark("norm")
DEVIATION = Mark("norm_deviation", "half")


class Normalize(torch.autograd.Function):
    """The non-parametric half: (x - mean) / sqrt(variance + eps) over the last axis.

    Saves the result and the reciprocal deviation, one value a row. With y the result, g the gradient that
    arrives and means taken over a row: dx = (g - mean(g) - y mean(g y)) / deviation.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        y, _, reciprocal_deviation = torch.ops.aten.native_layer_norm(x, x.shape[-1:], None, None, eps)
        ctx.save_for_backward(mark(y, NORMALIZED), mark(reciprocal_deviation, DEVIATION))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, reciprocal_deviation = ctx.saved_tensors
        projected = y * (grad * y).mean(-1, keepdim=True)
        return (grad - grad.mean(-1, keepdim=True) - projected) * reciprocal_deviation, None


def layer_norm(
    x: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """LayerNorm with the affine half left to autograd, which saves nothing for a trainable bias. A layer that
    is trained on the result reads it from the code of the normalised input, the bias being what it then is."""
    shape = x.shape
    rows = x.flatten(-len(normalized_shape)) if len(normalized_shape) > 1 else x
    return affine(Normalize.apply(rows, eps).view(shape), weight, bias)


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """x (batch, channels, ...)."""
    y = Normalize.apply(x.reshape(x.shape[0], num_groups, -1), eps).view(x.shape)
    per_channel = (-1, *[1] * (x.ndim - 2))
    return affine(y, *(None if tensor is None else tensor.view(per_channel) for tensor in (weight, bias)))


def affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """y weight + bias, which the backward pass recomputes from `y` where it needs it."""

    def function(y: Tensor) -> Tensor:
        y = y if weight is None else y * weight
        return y if bias is None else y + bias

    result = function(y)
    derive(result, y, function)
    return result
