"""Convolutions, their gradients, and the gradient of max-pooling."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import fx

from edge_s2a.errors import UserError
from edge_s2a.host.graph.builder import GraphBuilder
from edge_s2a.host.graph.ir import Batch, TensorType, fixed, fixed_sizes
from edge_s2a.host.graph.lowerings.table import Lowered, lowers, result_type, tensor_type
from edge_s2a.host.trace.operators import max_pool  # noqa: F401, registers the operator "fold"

aten = torch.ops.aten


@lowers(aten.convolution.default)
def _convolution(
    graph: GraphBuilder,
    node: fx.Node,
    x: str,
    weight: str,
    bias: str | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    _output_padding: list[int],
    groups: int,
) -> str:
    if transposed:
        raise UserError("a transposed convolution has no lowering to ONNX yet; choose another model")
    return graph.emit(
        "Conv", [x, weight] + ([bias] if bias else []), result_type(node),
        strides=list(stride), pads=[*padding, *padding], dilations=list(dilation), group=groups,
    )  # fmt: skip


@lowers(aten.convolution_backward.default)
def _convolution_backward(
    graph: GraphBuilder,
    node: fx.Node,
    grad: str,
    x: str,
    weight: str,
    _bias_sizes: list[int] | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    _transposed: bool,
    _output_padding: list[int],
    groups: int,
    needed: list[bool],
) -> Lowered:
    geometry = (list(stride), list(padding), list(dilation), groups)
    dx, dw, db = (
        tensor_type(value) if is_needed else None for value, is_needed in zip(node.meta["val"], needed, strict=True)
    )
    return [
        None if dx is None else input_gradient(graph, grad, weight, dx, *geometry),
        None if dw is None else weight_gradient(graph, grad, x, dw, *geometry),
        None if db is None else channel_sums(graph, grad, db),
    ]


def channel_sums(graph: GraphBuilder, grad: str, result: TensorType) -> str:
    axes = [0, *range(2, len(graph.types[grad].shape))]
    return graph.emit("ReduceSum", [grad, graph.constant(axes, np.int64)], result, keepdims=0)


def input_gradient(
    graph: GraphBuilder,
    grad: str,
    weight: str,
    result: TensorType,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> str:
    """A convolution of the gradient with the weight turned by 180 degrees, in whichever of three forms runs fastest."""
    outputs, _, *kernel = fixed_sizes(graph.types[weight].shape)
    batch, (channels, height, width) = result.shape[0], fixed_sizes(result.shape[1:])
    if math.prod(kernel) == 1 and stride == [1, 1] and padding == [0, 0] and groups == 1:
        matrix = graph.reshape(graph.operand(weight), (outputs, channels))
        columns = graph.reshape(grad, (batch, outputs, height * width))
        product = TensorType(result.dtype, (batch, channels, height * width))
        return graph.reshape(
            graph.emit("FusedMatMul", [matrix, columns], product, "com.microsoft", transA=1, transB=0), result.shape
        )
    is_depthwise = groups == channels == outputs
    # Such a convolution takes time by the weight's size, ConvTranspose by that of the maps, of which it lays
    # out all windows: 7 MB for 64 channels and 56 x 56 positions.
    if stride == [1, 1] and (is_depthwise or (groups == 1 and height * width > max(channels, outputs))):
        pads = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        if min(pads) >= 0:
            turned = turned_kernel(graph, weight, is_depthwise)
            return graph.emit(
                "Conv", [grad, turned], result, strides=stride, pads=[*pads, *pads], dilations=dilation, group=groups
            )
    sizes = fixed_sizes(graph.types[grad].shape[2:])
    output_padding = [
        size - ((n - 1) * s - 2 * p + d * (k - 1) + 1)
        for size, n, s, p, d, k in zip(
            (height, width), sizes, stride, padding, dilation, kernel, strict=True
        )
    ]  # fmt: skip
    return graph.emit(
        "ConvTranspose", [grad, weight], result, strides=stride, pads=[*padding, *padding], dilations=dilation,
        group=groups, output_padding=output_padding,
    )  # fmt: skip


def turned_kernel(graph: GraphBuilder, weight: str, is_depthwise: bool) -> str:
    """The kernel (outputs, inputs, height, width) turned by 180 degrees: (inputs, outputs, height, width). The channels
    of a depthwise kernel keep their order."""
    kind = graph.types[weight]
    inputs = [graph.constant(values, np.int64) for values in ([-1, -1], [-(2**31)] * 2, [2, 3], [-1, -1])]
    turned = graph.emit("Slice", [weight, *inputs], kind)
    if is_depthwise:
        return turned
    outputs, channels, *size = kind.shape
    return graph.emit("Transpose", [turned], TensorType(kind.dtype, (channels, outputs, *size)), perm=[1, 0, 2, 3])


def weight_gradient(
    graph: GraphBuilder,
    grad: str,
    x: str,
    result: TensorType,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> str:
    """For each place in the kernel, the sum over positions of the gradient times the input that this place lies on.
    That is one node or more per place: the kernels that are trained are small."""
    outputs, rows, columns = fixed_sizes(graph.types[grad].shape[1:])
    _, channels, *kernel = fixed_sizes(result.shape)
    x = padded(graph, x, padding)
    if groups == outputs and channels == 1 and stride == dilation == [1, 1] and kernel[1] > 1:
        return depthwise_weight_gradient(graph, grad, x, result)
    places = []
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            starts = [row * dilation[0], column * dilation[1]]
            ends = [s + (n - 1) * step + 1 for s, n, step in zip(starts, (rows, columns), stride, strict=True)]
            part = (*graph.types[x].shape[:2], rows, columns)
            inputs = [graph.constant(values, np.int64) for values in (starts, ends, [2, 3], stride)]
            is_whole = part == graph.types[x].shape
            seen = x if is_whole else graph.emit("Slice", [x, *inputs], TensorType(result.dtype, part))
            places.append(correlation(graph, grad, seen, groups, TensorType(result.dtype, (outputs, channels, 1))))
    if len(places) == 1:
        return graph.reshape(places[0], result.shape)
    joined = graph.emit("Concat", places, TensorType(result.dtype, (outputs, channels, math.prod(kernel))), axis=2)
    return graph.reshape(joined, result.shape)


def depthwise_weight_gradient(graph: GraphBuilder, grad: str, x: str, result: TensorType) -> str:
    """`weight_gradient`, one row of the kernel at a time. With X the rows of the input that lie under it, and G the
    gradient, of one channel of an image: place j of the row is the sum of M = XT G over the diagonal [c + j, c]. The
    sums of these diagonals are a product with a constant."""
    dtype, (batch, *sizes) = graph.types[grad]
    channels, rows, columns = fixed_sizes(tuple(sizes))
    width = fixed(graph.types[x].shape[3])
    height, places = fixed_sizes(result.shape[2:])
    planes = Batch(batch.times * channels) if isinstance(batch, Batch) else batch * channels
    sums_of_diagonals = np.zeros((width, columns, places), np.float32)
    for place in range(places):
        sums_of_diagonals[np.arange(columns) + place, np.arange(columns), place] = 1
    diagonals = graph.large_constant(sums_of_diagonals.reshape(-1, places))
    grad = graph.reshape(grad, (planes, rows, columns))
    found = []
    for row in range(height):
        bounds = [graph.constant([value], np.int64) for value in (row, row + rows, 2)]
        part = graph.emit("Slice", [x, *bounds], TensorType(dtype, (batch, channels, rows, width)))
        part = graph.reshape(part, (planes, rows, width))
        products_type = TensorType(dtype, (planes, width, columns))
        products = graph.emit("FusedMatMul", [part, grad], products_type, "com.microsoft", transA=1, transB=0)
        products = graph.reshape(products, (batch, channels, width * columns))
        summed_type = TensorType(dtype, (channels, width * columns))
        summed = graph.emit("ReduceSum", [products, graph.constant([0], np.int64)], summed_type, keepdims=0)
        sums = graph.emit("Gemm", [summed, diagonals], TensorType(dtype, (channels, places)), transA=0, transB=0)
        found.append(graph.reshape(sums, (channels, 1, places)))
    joined = graph.emit("Concat", found, TensorType(dtype, (channels, height, places)), axis=1)
    return graph.reshape(joined, result.shape)


def padded(graph: GraphBuilder, x: str, padding: list[int]) -> str:
    if padding == [0, 0]:
        return x
    dtype, (batch, channels, height, width) = graph.types[x]
    size = (fixed(height) + 2 * padding[0], fixed(width) + 2 * padding[1])
    result = TensorType(dtype, (batch, channels, *size))
    pads = graph.constant([0, 0, *padding, 0, 0, *padding], np.int64)
    return graph.emit("Pad", [x, pads], result, mode="constant")


def correlation(graph: GraphBuilder, grad: str, x: str, groups: int, result: TensorType) -> str:
    """(outputs, channels, 1): sums over batch and positions of grad (batch, outputs, ...) times x (batch, inputs,
    ...)."""
    outputs = result.shape[0]
    batch, inputs, *size = graph.types[x].shape
    positions = math.prod(fixed_sizes(tuple(size)))
    if groups == 1:
        flat = [graph.reshape(value, (batch, n, positions)) for value, n in ((grad, outputs), (x, inputs))]
        each = TensorType(result.dtype, (batch, outputs, inputs))
        products = graph.emit("FusedMatMul", flat, each, "com.microsoft", transA=0, transB=1)
        total = graph.emit(
            "ReduceSum", [products, graph.constant([0], np.int64)], TensorType(result.dtype, each.shape[1:]), keepdims=0
        )
        return graph.reshape(total, result.shape)
    if groups != inputs or groups != outputs:
        raise UserError(
            "the weight gradient of a grouped convolution has no lowering to ONNX yet; choose another model or adapter"
        )
    product = graph.emit("Mul", [grad, x], graph.types[x])
    return graph.reshape(channel_sums(graph, product, TensorType(result.dtype, (outputs,))), result.shape)


@lowers(torch.ops.edge_s2a.fold.default)
def _fold(
    graph: GraphBuilder,
    node: fx.Node,
    columns: str,
    size: list[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
) -> str:
    shapes = [graph.constant(value, np.int64) for value in (size, kernel)]
    return graph.emit(
        "Col2Im", [columns, *shapes], result_type(node),
        strides=list(stride), pads=[*padding, *padding], dilations=[1, 1],
    )  # fmt: skip


@lowers(aten.max_pool2d_with_indices.default)
def _max_pool(
    graph: GraphBuilder,
    node: fx.Node,
    x: str,
    kernel: list[int],
    stride: list[int] | None = None,
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> list[str]:
    result = tensor_type(node.meta["val"][0])
    return [
        graph.emit(
            "MaxPool", [x], result, kernel_shape=list(kernel), strides=list(stride or kernel),
            pads=[*padding, *padding], dilations=list(dilation), ceil_mode=int(ceil_mode),
        )
    ]  # fmt: skip
