"""Elementwise operators whose backward pass multiplies by a low-bit code of the derivative."""

from collections.abc import Callable

import torch
from torch import Tensor

from edge_s2a.host.quantize import codes
from edge_s2a.host.quantize.saved import Mark, as_rows, mark


class Pointwise(torch.autograd.Function):
    """f(x) for an elementwise f. Saves f'(x): its range is a property of the function, so no scale is stored
    (paper: codes "based on their derivatives"). Backward is one decode and one product."""

    @staticmethod
    def forward(ctx, x: Tensor, function: Callable[[Tensor], tuple[Tensor, Tensor, Mark]]) -> Tensor:
        """function(x) -> (f(x), f'(x), what to say of this)."""
        y, derivative, description = function(x)
        ctx.save_for_backward(mark(derivative, description))
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):
        (derivative,) = ctx.saved_tensors
        return grad * derivative, None


class PiecewiseLinear(torch.autograd.Function):
    """f(x) for an f whose derivative takes two values: saves one bit a value, exactly."""

    @staticmethod
    def forward(ctx, x: Tensor, function: Callable[[Tensor], tuple[Tensor, Tensor]], slopes: tuple[float, float]):
        """function(x) -> (f(x), mask): the derivative is slopes[1] where the mask is true, else slopes[0]."""
        y, mask = function(x)
        rows = as_rows(mask.to(torch.uint8))
        ctx.slopes, ctx.n = slopes, rows.shape[-1]
        ctx.save_for_backward(codes.pack(rows, 1))
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):
        (packed,) = ctx.saved_tensors
        off, on = ctx.slopes
        # A product with zeros and ones: the engine's Where takes three buffers of the gradient's size.
        mask = codes.unpack(packed, 1, ctx.n).to(grad.dtype).view(grad.shape)
        slope = mask if on - off == 1 else mask * (on - off)
        return grad * (slope + off if off else slope), None, None
