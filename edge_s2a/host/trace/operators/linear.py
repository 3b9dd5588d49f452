"""Frozen linear layers whose products are computed in int8, forward and backward (not in the paper).

A row of the left matrix gets a scale of its own, its largest magnitude / 127, so that a result does not depend on the
other images of a micro-batch. The right matrix is the int8 codes of the frozen weight as they are stored. With x the
input, g the gradient that arrives and s the scales of the weight's rows:

    y = round_rows(x) @ weight.T + bias        dx = round_rows(g * s) @ codes

The gradient is that of the exact product: rounding counts as the identity.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LARGEST_CODE = 127
COMPUTES_IN_INT8 = "computes_in_int8"  # an attribute of a weight
SMALLEST_ROW = 1e-30  # the magnitude of a row of zeros is taken for this


@torch.library.custom_op("edge_s2a::int8_product", mutates_args=())
def int8_product(x: Tensor, weight: Tensor) -> Tensor:
    """x (rows, inputs), weight (outputs, inputs), a product of int8 codes and scales -> (rows, outputs)."""
    (codes, scale), (weight_codes, weight_scale) = rows_in_int8(x), weight_in_int8(weight)
    return (codes.double() @ weight_codes.t().double()).float() * weight_scale * scale


@int8_product.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@torch.library.custom_op("edge_s2a::int8_product_of_gradient", mutates_args=())
def int8_product_of_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """grad (rows, outputs), weight (outputs, inputs) as above -> (rows, inputs)."""
    weight_codes, weight_scale = weight_in_int8(weight)
    codes, scale = rows_in_int8(grad * weight_scale)
    return (codes.double() @ weight_codes.double()).float() * scale


@int8_product_of_gradient.register_fake
def _(grad: Tensor, weight: Tensor) -> Tensor:
    return grad.new_empty(grad.shape[0], weight.shape[1])


def rows_in_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """float32 (rows, n) -> whole numbers (rows, n) of magnitude at most 127, scale (rows, 1)."""
    scale = x.abs().amax(-1, keepdim=True).clamp(min=SMALLEST_ROW) * (1 / LARGEST_CODE)
    return (x / scale).round(), scale


def weight_in_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The codes (outputs, inputs) and scales (outputs,) of a weight that `host.weights.freeze` rounded to int8."""
    scale = weight.abs().amax(-1) / LARGEST_CODE
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (weight / scale[:, None]).round(), scale


class Int8Linear(torch.autograd.Function):
    """The product with a frozen weight in int8, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        return int8_product(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return int8_product_of_gradient(grad, ctx.weight), None


def compute_in_int8(weight: Tensor) -> None:
    """Marks a frozen weight for `linear`."""
    setattr(weight, COMPUTES_IN_INT8, True)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., inputs) -> (..., outputs)."""
    if not getattr(weight, COMPUTES_IN_INT8, False):
        return functional.linear(x, weight, bias)
    y = Int8Linear.apply(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], weight.shape[0])
    return y if bias is None else y + bias
