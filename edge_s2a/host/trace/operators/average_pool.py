"""Average pooling, which is linear and saves nothing. torch's own saves its input for the shape alone."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edge_s2a.host.trace.operators.convolution import conv2d
from edge_s2a.host.trace.operators.max_pool import Size, ceil_padding, pair


def avg_pool2d(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """x (batch, channels, height, width). A depthwise convolution with a frozen kernel of equal weights; where
    windows lie partly outside the image, a constant map corrects the number of values."""
    kernel, stride, padding = pair(kernel_size), pair(stride or kernel_size), pair(padding)
    channels, height, width = x.shape[1:]
    even = torch.full((channels, 1, *kernel), 1 / (kernel[0] * kernel[1]))
    extra = ceil_padding((height, width), kernel, stride, padding) if ceil_mode else (0, 0, 0, 0)
    padded = functional.pad(x, extra) if any(extra) else x
    y = conv2d(padded, even, None, stride, padding, 1, channels)
    if not any(extra) and divisor_override is None and (count_include_pad or padding == (0, 0)):
        return y
    ones = torch.ones(1, 1, height, width)
    wanted = functional.avg_pool2d(ones, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
    given = functional.conv2d(functional.pad(ones, extra), even[:1], None, stride, padding)
    return y * (wanted / given)


def adaptive_avg_pool2d(x: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """The mean over positions, or over windows where they are even, or else products with averaging matrices."""
    sizes = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    height, width = (n if size is None else size for size, n in zip(sizes, x.shape[-2:], strict=True))
    if (height, width) == (1, 1):
        return x.mean((-2, -1), keepdim=True)
    if (height, width) == tuple(x.shape[-2:]):
        return x
    if x.shape[-2] % height == 0 and x.shape[-1] % width == 0:
        return avg_pool2d(x, (x.shape[-2] // height, x.shape[-1] // width))
    return average_axes(x, averaging(x.shape[-2], height), averaging(x.shape[-1], width))


class ProductFromLeft(torch.autograd.Function):
    """rows.T @ x for each x (batch, height, width), with frozen rows (height, new height), of which torch's own product
    would save one for each x. In this form the graph repeats no matrix and transposes nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.rows = rows
        return torch.bmm(rows.t().expand(x.shape[0], -1, -1), x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return torch.bmm(ctx.rows.expand(grad.shape[0], -1, -1), grad), None


def average_axes(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x (..., height, width) times rows (height, new height) and columns (width, new width) on its last axes."""
    y = functional.linear(x, columns.t()).reshape(-1, x.shape[-2], columns.shape[1])
    return ProductFromLeft.apply(y, rows).view(*x.shape[:-2], rows.shape[1], columns.shape[1])


def averaging(inputs: int, outputs: int) -> Tensor:
    """(inputs, outputs): the matrix of adaptive average pooling along one axis; it repeats where outputs are
    more than inputs."""
    return functional.adaptive_avg_pool1d(torch.eye(inputs)[None], outputs)[0].contiguous()
