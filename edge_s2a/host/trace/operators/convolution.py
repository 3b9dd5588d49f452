"""Convolution with frozen weights, which saves nothing for the backward pass but the weights themselves."""

from typing import Any

import torch
from torch import Tensor

from edge_s2a.host.trace.operators.max_pool import Size, pair


class FrozenConvolution(torch.autograd.Function):
    """conv2d whose weight is not trained. torch's own saves its input even so, which nothing reads: with g the
    gradient that arrives, dx is a product of g and the weight, and the bias gradient is a sum over g."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> Tensor:
        ctx.weight, ctx.input_shape = weight, x.shape
        ctx.settings = ([*stride], [*padding], [*dilation], False, [0, 0], groups)
        return torch.ops.aten.convolution(x, weight, bias, *ctx.settings)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs_input, _, needs_bias = ctx.needs_input_grad[:3]
        # Only the shape of the input is read where the weight needs no gradient.
        shape_of_input = grad.new_empty(()).expand(ctx.input_shape)
        dx, _, db = torch.ops.aten.convolution_backward(
            grad, shape_of_input, ctx.weight, [ctx.weight.shape[0]], *ctx.settings, [needs_input, False, needs_bias]
        )
        return dx, None, db, None, None, None, None


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    if weight.requires_grad or isinstance(padding, str):
        return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return FrozenConvolution.apply(x, weight, bias, pair(stride), pair(padding), pair(dilation), groups)
