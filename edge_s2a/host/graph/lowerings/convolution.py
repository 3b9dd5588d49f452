"""Convolutions, their gradients, and the gradient of max-pooling."""

import math

import numpy as np
import torch

from edge_s2a.errors import UserError
from edge_s2a.host.graph.ir import Batch, TensorType
from edge_s2a.host.graph.lowerings.table import lowers, result_type, tensor_type

aten = torch.ops.aten


@lowers(aten.convolution.default)
def _convolution(low, node, x, weight, bias, stride, padding, dilation, transposed, _output_padding, groups):
    if transposed:
        raise UserError("a transposed convolution has no lowering to ONNX yet")
    return low.emit(
        "Conv", [x, weight] + ([bias] if bias else []), result_type(node),
        strides=list(stride), pads=[*padding, *padding], dilations=list(dilation), group=groups,
    )  # fmt: skip


@lowers(aten.convolution_backward.default)
def _convolution_backward(low, node, grad, x, weight, _bias_sizes, stride, padding, dilation, *rest):
    groups = rest[2]
    needs_input, needs_weight, needs_bias = node.args[-1]
    geometry = (list(stride), list(padding), list(dilation), groups)
    results = [value if value is None else tensor_type(value) for value in node.meta["val"]]
    return [
        input_gradient(low, grad, weight, results[0], *geometry) if needs_input else None,
        weight_gradient(low, grad, x, results[1], *geometry) if needs_weight else None,
        channel_sums(low, grad, results[2]) if needs_bias else None,
    ]


def channel_sums(low, grad: str, result: TensorType) -> str:
    axes = [0, *range(2, len(low.types[grad].shape))]
    return low.emit("ReduceSum", [grad, low.constant(axes, np.int64)], result, keepdims=0)


def input_gradient(low, grad, weight, result, stride, padding, dilation, groups) -> str:
    """A convolution of the gradient with the weight turned round; three forms of it, by what runs fastest."""
    outputs, _, *kernel = low.types[weight].shape
    batch, channels, height, width = result.shape
    if math.prod(kernel) == 1 and stride == [1, 1] and padding == [0, 0] and groups == 1:
        matrix = low.reshape(low.operand(weight), (outputs, channels))
        columns = low.reshape(grad, (batch, outputs, height * width))
        product = TensorType(result.dtype, (batch, channels, height * width))
        return low.reshape(
            low.emit("FusedMatMul", [matrix, columns], product, "com.microsoft", transA=1, transB=0), result.shape
        )
    is_depthwise = groups == channels == outputs
    # A convolution turned round takes time by the weight's size, ConvTranspose by that of the maps, of which it lays
    # out all windows: of 64 channels and 56 x 56 positions 7 MB.
    if stride == [1, 1] and (is_depthwise or (groups == 1 and height * width > max(channels, outputs))):
        pads = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        if min(pads) >= 0:
            turned = turned_kernel(low, weight, is_depthwise)
            return low.emit(
                "Conv", [grad, turned], result, strides=stride, pads=[*pads, *pads], dilations=dilation, group=groups
            )
    sizes = low.types[grad].shape[2:]
    output_padding = [
        size - ((n - 1) * s - 2 * p + d * (k - 1) + 1)
        for size, n, s, p, d, k in zip(
            (height, width), sizes, stride, padding, dilation, kernel, strict=True
        )
    ]  # fmt: skip
    return low.emit(
        "ConvTranspose", [grad, weight], result, strides=stride, pads=[*padding, *padding], dilations=dilation,
        group=groups, output_padding=output_padding,
    )  # fmt: skip


def turned_kernel(low, weight: str, is_depthwise: bool) -> str:
    """The kernel (outputs, inputs, height, width) turned by 180 degrees, (inputs, outputs, height, width); of a
    depthwise one the channels stay where they are."""
    kind = low.types[weight]
    inputs = [low.constant(values, np.int64) for values in ([-1, -1], [-(2**31)] * 2, [2, 3], [-1, -1])]
    turned = low.emit("Slice", [weight, *inputs], kind)
    if is_depthwise:
        return turned
    outputs, channels, *size = kind.shape
    return low.emit("Transpose", [turned], TensorType(kind.dtype, (channels, outputs, *size)), perm=[1, 0, 2, 3])


def weight_gradient(low, grad, x, result, stride, padding, dilation, groups) -> str:
    """For each place in the kernel, the sum over positions of the gradient times the input there: the input,
    cut to where that place of the kernel lies on it. The kernels that are trained are small."""
    _, outputs, rows, columns = low.types[grad].shape
    _, channels, *kernel = result.shape
    x = padded(low, x, padding)
    if groups == outputs and channels == 1 and stride == dilation == [1, 1] and kernel[1] > 1:
        return depthwise_weight_gradient(low, grad, x, result)
    places = []
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            starts = [row * dilation[0], column * dilation[1]]
            ends = [s + (n - 1) * step + 1 for s, n, step in zip(starts, (rows, columns), stride, strict=True)]
            part = (*low.types[x].shape[:2], rows, columns)
            inputs = [low.constant(values, np.int64) for values in (starts, ends, [2, 3], stride)]
            seen = x if part == low.types[x].shape else low.emit("Slice", [x, *inputs], TensorType(result.dtype, part))
            places.append(correlation(low, grad, seen, groups, TensorType(result.dtype, (outputs, channels, 1))))
    if len(places) == 1:
        return low.reshape(places[0], result.shape)
    joined = low.emit("Concat", places, TensorType(result.dtype, (outputs, channels, math.prod(kernel))), axis=2)
    return low.reshape(joined, result.shape)


def depthwise_weight_gradient(low, grad: str, x: str, result: TensorType) -> str:
    """The same for a row of the kernel at a time. With X the rows of the input that lie under it, and G the gradient,
    of one channel of an image: M = XT G holds at [c + j, c] what place j of the row has in common with column c. The
    sums of these diagonals are a product with a constant."""
    dtype, (batch, channels, rows, columns) = low.types[grad]
    width = low.types[x].shape[3]
    _, _, height, places = result.shape
    planes = Batch(batch.times * channels)
    diagonals = np.zeros((width, columns, places), np.float32)
    for place in range(places):
        diagonals[np.arange(columns) + place, np.arange(columns), place] = 1
    diagonals = low.large_constant(diagonals.reshape(-1, places))
    grad = low.reshape(grad, (planes, rows, columns))
    found = []
    for row in range(height):
        bounds = [low.constant([value], np.int64) for value in (row, row + rows, 2)]
        part = low.emit("Slice", [x, *bounds], TensorType(dtype, (batch, channels, rows, width)))
        part = low.reshape(part, (planes, rows, width))
        products = TensorType(dtype, (planes, width, columns))
        products = low.emit("FusedMatMul", [part, grad], products, "com.microsoft", transA=1, transB=0)
        products = low.reshape(products, (batch, channels, width * columns))
        summed = TensorType(dtype, (channels, width * columns))
        summed = low.emit("ReduceSum", [products, low.constant([0], np.int64)], summed, keepdims=0)
        sums = low.emit("Gemm", [summed, diagonals], TensorType(dtype, (channels, places)), transA=0, transB=0)
        found.append(low.reshape(sums, (channels, 1, places)))
    joined = low.emit("Concat", found, TensorType(dtype, (channels, height, places)), axis=1)
    return low.reshape(joined, result.shape)


def padded(low, x: str, padding: list[int]) -> str:
    if padding == [0, 0]:
        return x
    dtype, (batch, channels, height, width) = low.types[x]
    result = TensorType(dtype, (batch, channels, height + 2 * padding[0], width + 2 * padding[1]))
    pads = low.constant([0, 0, *padding, 0, 0, *padding], np.int64)
    return low.emit("Pad", [x, pads], result, mode="constant")


def correlation(low, grad: str, x: str, groups: int, result: TensorType) -> str:
    """(outputs, channels, 1): sums over batch and positions of grad (batch, outputs, ...) times x (batch, inputs,
    ...)."""
    outputs = result.shape[0]
    batch, inputs, rows, columns = low.types[x].shape
    if groups == 1:
        flat = [low.reshape(value, (batch, n, rows * columns)) for value, n in ((grad, outputs), (x, inputs))]
        each = TensorType(result.dtype, (batch, outputs, inputs))
        products = low.emit("FusedMatMul", flat, each, "com.microsoft", transA=0, transB=1)
        total = low.emit(
            "ReduceSum", [products, low.constant([0], np.int64)], TensorType(result.dtype, each.shape[1:]), keepdims=0
        )
        return low.reshape(total, result.shape)
    if groups != inputs or groups != outputs:
        raise UserError("the weight gradient of a grouped convolution has no lowering to ONNX yet")
    product = low.emit("Mul", [grad, x], low.types[x])
    return low.reshape(channel_sums(low, product, TensorType(result.dtype, (outputs,))), result.shape)


@lowers(torch.ops.edge_s2a.fold.default)
def _fold(low, node, columns, size, kernel, stride, padding):
    shapes = [low.constant(value, np.int64) for value in (size, kernel)]
    return low.emit(
        "Col2Im", [columns, *shapes], result_type(node),
        strides=list(stride), pads=[*padding, *padding], dilations=[1, 1],
    )  # fmt: skip


@lowers(aten.max_pool2d_with_indices.default)
def _max_pool(low, node, x, kernel, stride=None, padding=(0, 0), dilation=(1, 1), ceil_mode=False):
    result = tensor_type(node.meta["val"][0])
    return [
        low.emit(
            "MaxPool", [x], result, kernel_shape=list(kernel), strides=list(stride or kernel),
            pads=[*padding, *padding], dilations=list(dilation), ceil_mode=int(ceil_mode),
        )
    ]  # fmt: skip
