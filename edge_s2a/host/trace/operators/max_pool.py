"""Max-pooling whose backward pass reads the position of each maximum in its window."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edge_s2a.errors import UserError
from edge_s2a.host.trace import codes

Size = int | Sequence[int]


@torch.library.custom_op("edge_s2a::fold", mutates_args=())
def fold(columns: Tensor, size: list[int], kernel: list[int], stride: list[int], padding: list[int]) -> Tensor:
    """torch's fold of (batch, channels * window, windows) to (batch, channels, *size); one ONNX Col2Im. An operator
    of its own, for torch cannot trace fold with a symbolic batch."""
    return functional.fold(columns, tuple(size), tuple(kernel), padding=tuple(padding), stride=tuple(stride))


@fold.register_fake
def _(columns: Tensor, size: list[int], kernel: list[int], stride: list[int], padding: list[int]) -> Tensor:
    return columns.new_empty(columns.shape[0], columns.shape[1] // (kernel[0] * kernel[1]), *size)


class MaxPool(torch.autograd.Function):
    """Maximum over windows of x (batch, channels, height, width).

    Saves the position of the maximum in its window, row by row, the first where several are equal, as torch
    does: 4 bits for windows of up to 16. Backward puts each gradient back at its position.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        y = functional.max_pool2d(x, kernel, stride, padding)
        (rows, columns), (height, width) = y.shape[-2:], kernel
        padded = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]), value=-torch.inf)
        best: Tensor | None = None
        for position in range(height * width):
            row, column = divmod(position, width)
            candidate = padded[
                :, :,
                row : row + stride[0] * (rows - 1) + 1 : stride[0],
                column : column + stride[1] * (columns - 1) + 1 : stride[1],
            ]  # fmt: skip
            # The first place that holds the maximum has the largest rank.
            rank = (candidate == y).to(x.dtype) * (height * width - position)
            best = rank if best is None else torch.maximum(best, rank)
        if best is None:
            raise UserError("max-pooling over windows of no size cannot be packed; choose another model")
        code = (height * width - best).to(torch.uint8)
        ctx.bits = 2 if height * width <= 4 else 4 if height * width <= 16 else 8
        ctx.input_shape, ctx.output_shape, ctx.geometry = x.shape, y.shape, (kernel, stride, padding)
        ctx.save_for_backward(codes.pack(code.reshape(x.shape[0], -1), ctx.bits))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (packed,) = ctx.saved_tensors
        kernel, stride, padding = ctx.geometry
        batch, channels, rows, columns = ctx.output_shape
        code = codes.decode(packed, ctx.bits, channels * rows * columns).view(batch, channels, 1, -1)
        positions = torch.arange(kernel[0] * kernel[1], dtype=torch.float32).view(-1, 1)
        grad = grad.reshape(batch, channels, 1, rows * columns)
        spread = grad * (code == positions).to(grad.dtype)
        windows = spread.view(batch, -1, rows * columns)
        return fold(windows, ctx.input_shape[-2:], kernel, stride, padding), None, None, None


def max_pool2d(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    kernel, stride, padding = pair(kernel_size), pair(stride or kernel_size), pair(padding)
    if ceil_mode:
        # As many windows as begin inside the image or its left padding: the same as padding on the right.
        x = functional.pad(x, ceil_padding(x.shape[-2:], kernel, stride, padding), value=-torch.inf)
    if pair(dilation) != (1, 1) or return_indices:
        raise UserError("max-pooling with dilation or indices cannot be packed; choose another model")
    return MaxPool.apply(x, kernel, stride, padding)


def ceil_padding(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) that makes floor rounding of the output size do what ceil would."""
    extra = []
    for length, window, step, pad in zip(size, kernel, stride, padding, strict=True):
        span = length + 2 * pad - window
        windows = -(-span // step) + 1
        windows -= (windows - 1) * step >= length + pad
        extra.append(max(0, (windows - 1) * step - span))
    return 0, extra[1], 0, extra[0]


def pair(value: Size) -> tuple[int, int]:
    """(height, width) of a size that torch lets be given as one number, or as a sequence of one or two."""
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return first, rest[0] if rest else first
