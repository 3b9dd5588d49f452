"""Elementwise operators whose backward pass multiplies by a low-bit code of the derivative."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edge_s2a.codec.reference import can_pack
from edge_s2a.host.trace import codes
from edge_s2a.host.trace.saved_tensors import Mark, as_rows_of_bits, mark


class Pointwise(torch.autograd.Function):
    """f(x) for an elementwise f. Saves f'(x): its range is a property of the function, so no scale is stored
    (paper: codes "based on their derivatives"). Backward is one decode and one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], tuple[Tensor, Tensor, Mark]]) -> Tensor:
        """function(x) -> (f(x), f'(x), the mark of the latter)."""
        y, derivative, description = function(x)
        ctx.save_for_backward(mark(derivative, description))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (derivative,) = ctx.saved_tensors
        return grad * derivative, None


class PiecewiseLinear(torch.autograd.Function):
    """f(x) for an f whose derivative takes two values: saves one bit a value, exactly."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, function: Callable[[Tensor], tuple[Tensor, Tensor]], slopes: tuple[float, float]
    ) -> Tensor:
        """function(x) -> (f(x), mask): the derivative is slopes[1] where the mask, of booleans or floats, is true or
        positive, else slopes[0]."""
        y, mask = function(x)
        rows = as_rows_of_bits(mask)
        ctx.slopes, ctx.n = slopes, rows.shape[-1]
        if mask.is_floating_point() and can_pack(ctx.n, 1):
            ctx.save_for_backward(codes.pack_positive(rows))
        else:
            is_on = rows > 0 if mask.is_floating_point() else rows
            ctx.save_for_backward(codes.pack(is_on.to(torch.uint8), 1))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (packed,) = ctx.saved_tensors
        off, on = ctx.slopes
        # A product with zeros and ones: the engine's Where takes three buffers of the gradient's size.
        slope = codes.decode(packed, 1, ctx.n, on - off).view(grad.shape)
        return grad * (slope + off if off else slope), None, None
