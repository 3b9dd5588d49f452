"""Elementwise operators, reductions, softmax and norms."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import fx

from edge_s2a.errors import UserError
from edge_s2a.host.graph.builder import GraphBuilder
from edge_s2a.host.graph.ir import BOOL, TensorType, fixed
from edge_s2a.host.graph.lowerings.table import LOWERINGS, lowers, result_type, tensor_type

aten = torch.ops.aten

Axes = int | list[int] | None


def elementwise(operator: str) -> Callable[..., str]:
    """A lowering to one operator that broadcasts its operands, which are names of tensors and numbers."""

    def function(graph: GraphBuilder, node: fx.Node, *operands: str | float, **_: object) -> str:
        dtype = operand_dtype(graph, operands)
        tensor = next(x for x in operands if isinstance(x, str))
        names = [cast(graph, x, dtype) if isinstance(x, str) else graph.scalar(x, beside=tensor) for x in operands]
        return graph.emit(operator, names, result_type(node))

    return function


def operand_dtype(graph: GraphBuilder, operands: Sequence[str | float]) -> np.dtype:
    """Of the tensors among the operands, which differs from the result's in comparisons; a float one rules."""
    dtypes = [graph.types[x].dtype for x in operands if isinstance(x, str)]
    return next((dtype for dtype in dtypes if dtype.kind == "f"), dtypes[0])


def cast(graph: GraphBuilder, value: str, dtype: np.dtype) -> str:
    before, shape = graph.types[value]
    return value if before == dtype else graph.emit("Cast", [value], TensorType(dtype, shape), to=dtype)


ELEMENTWISE = {
    aten.relu.default: "Relu",
    aten.abs.default: "Abs",
    aten.log.default: "Log",
    aten.sin.default: "Sin",
    aten.cos.default: "Cos",
    aten.mul.Tensor: "Mul",
    aten.mul.Scalar: "Mul",
    aten.maximum.default: "Max",
    aten.minimum.default: "Min",
    aten.gt.Scalar: "Greater",
    aten.gt.Tensor: "Greater",
    aten.ge.Scalar: "GreaterOrEqual",
    aten.ge.Tensor: "GreaterOrEqual",
    aten.lt.Scalar: "Less",
    aten.lt.Tensor: "Less",
    aten.le.Scalar: "LessOrEqual",
    aten.le.Tensor: "LessOrEqual",
    aten.eq.Scalar: "Equal",
    aten.eq.Tensor: "Equal",
    aten.logical_and.default: "And",
    aten.logical_not.default: "Not",
    aten.bitwise_not.default: "Not",
    aten.div.Tensor: "Div",
    aten.div.Scalar: "Div",
    aten.neg.default: "Neg",
    aten.sgn.default: "Sign",
    aten.sign.default: "Sign",
    aten.erf.default: "Erf",
    aten.exp.default: "Exp",
    aten.tanh.default: "Tanh",
    aten.sigmoid.default: "Sigmoid",
    aten.sqrt.default: "Sqrt",
    aten.reciprocal.default: "Reciprocal",
}
LOWERINGS |= {target: elementwise(operator) for target, operator in ELEMENTWISE.items()}


@lowers(aten.addcmul.default)
def _addcmul(graph: GraphBuilder, node: fx.Node, a: str, b: str, c: str, value: float = 1) -> str:
    result = result_type(node)
    product = graph.emit("Mul", [b, c], result)
    if value != 1:
        product = graph.emit("Mul", [product, graph.scalar(value, beside=product)], result)
    return graph.emit("Add", [a, product], result)


@lowers(aten.where.self)
def _where(graph: GraphBuilder, node: fx.Node, mask: str, a: str, b: str) -> str:
    return graph.emit("Where", [mask, a, b], result_type(node))


@lowers(aten.masked_fill.Scalar)
def _masked_fill(graph: GraphBuilder, node: fx.Node, x: str, mask: str, value: float) -> str:
    return graph.emit("Where", [mask, graph.constant(value, result_type(node).dtype), x], result_type(node))


@lowers(aten.cumsum.default)
def _cumsum(graph: GraphBuilder, node: fx.Node, x: str, axis: int, dtype: torch.dtype | None = None) -> str:
    result = result_type(node)
    return graph.emit("CumSum", [cast(graph, x, result.dtype), graph.constant(axis, np.int64)], result)


@lowers(aten.linalg_vector_norm.default)
def _vector_norm(
    graph: GraphBuilder,
    node: fx.Node,
    x: str,
    order: float = 2,
    axes: list[int] | None = None,
    keepdim: bool = False,
    **_: object,
) -> str:
    if order != 2:
        raise UserError(f"a vector norm of order {order} has no lowering to ONNX yet; choose another model")
    return reduction("ReduceL2")(graph, node, x, axes, keepdim)


@lowers(aten.bitwise_and.Tensor)
def _bitwise_and(graph: GraphBuilder, node: fx.Node, a: str, b: str) -> str:
    return elementwise("And" if result_type(node).dtype == BOOL else "BitwiseAnd")(graph, node, a, b)


@lowers(aten.threshold_backward.default)
def _threshold_backward(graph: GraphBuilder, node: fx.Node, grad: str, x: str, threshold: float) -> str:
    mask = graph.emit("Greater", [x, graph.constant(threshold, np.float32)], TensorType(BOOL, graph.types[x].shape))
    return graph.emit("Where", [mask, grad, graph.constant(0, np.float32)], result_type(node))


@lowers(aten.add.Tensor, aten.add.Scalar)
def _add(graph: GraphBuilder, node: fx.Node, a: str, b: str | float, alpha: float = 1) -> str:
    return elementwise("Add")(graph, node, a, _scaled(graph, node, b, alpha))


@lowers(aten.sub.Tensor, aten.sub.Scalar)
def _sub(graph: GraphBuilder, node: fx.Node, a: str, b: str | float, alpha: float = 1) -> str:
    return elementwise("Sub")(graph, node, a, _scaled(graph, node, b, alpha))


@lowers(aten.rsub.Scalar)
def _rsub(graph: GraphBuilder, node: fx.Node, a: str, b: float, alpha: float = 1) -> str:
    return elementwise("Sub")(graph, node, b, _scaled(graph, node, a, alpha))


def _scaled(graph: GraphBuilder, node: fx.Node, value: str | float, alpha: float) -> str | float:
    return value if alpha == 1 else elementwise("Mul")(graph, node, value, alpha)


@lowers(aten.pow.Tensor_Scalar)
def _pow(graph: GraphBuilder, node: fx.Node, x: str, exponent: float) -> str:
    if exponent == 2:
        return graph.emit("Mul", [x, x], result_type(node))
    return elementwise("Pow")(graph, node, x, float(exponent))


@lowers(aten.rsqrt.default)
def _rsqrt(graph: GraphBuilder, node: fx.Node, x: str) -> str:
    return graph.emit("Reciprocal", [graph.emit("Sqrt", [x], result_type(node))], result_type(node))


@lowers(aten.clamp.default)
def _clamp(
    graph: GraphBuilder, node: fx.Node, x: str, low_bound: float | None = None, high_bound: float | None = None
) -> str:
    dtype = result_type(node).dtype
    bounds = ["" if bound is None else graph.constant(bound, dtype) for bound in (low_bound, high_bound)]
    return graph.emit("Clip", [x, *bounds], result_type(node))


@lowers(aten.clamp_min.default)
def _clamp_min(graph: GraphBuilder, node: fx.Node, x: str, bound: float) -> str:
    return _clamp(graph, node, x, bound)


@lowers(aten.clamp_max.default)
def _clamp_max(graph: GraphBuilder, node: fx.Node, x: str, bound: float) -> str:
    return _clamp(graph, node, x, None, bound)


@lowers(aten.gelu.default)
def _gelu(graph: GraphBuilder, node: fx.Node, x: str, approximate: str = "none") -> str:
    return graph.emit("Gelu", [x], result_type(node), approximate=approximate)


@lowers(aten._to_copy.default)
def _to_copy(graph: GraphBuilder, node: fx.Node, x: str, dtype: torch.dtype | None = None, **_: object) -> str:
    return cast(graph, x, result_type(node).dtype)


def reduction(operator: str) -> Callable[..., str]:
    """A lowering to an operator that reduces `axes`, or all where they are none."""

    def function(
        graph: GraphBuilder, node: fx.Node, x: str, axes: Axes = None, keepdim: bool = False, **_: object
    ) -> str:
        axes = [axes] if isinstance(axes, int) else axes
        x = cast(graph, x, result_type(node).dtype)
        inputs = [x] if not axes else [x, graph.constant(list(axes), np.int64)]
        return graph.emit(operator, inputs, result_type(node), keepdims=int(keepdim))

    return function


LOWERINGS[aten.sum.dim_IntList] = LOWERINGS[aten.sum.default] = reduction("ReduceSum")
LOWERINGS[aten.mean.dim] = LOWERINGS[aten.mean.default] = reduction("ReduceMean")
LOWERINGS[aten.amin.default] = reduction("ReduceMin")
LOWERINGS[aten.amax.default] = reduction("ReduceMax")


@lowers(aten.var.correction)
def _var(
    graph: GraphBuilder,
    node: fx.Node,
    x: str,
    axes: list[int] | None = None,
    correction: float = 1,
    keepdim: bool = False,
) -> str:
    dtype, shape = graph.types[x]
    axes = [axis % len(shape) for axis in axes or range(len(shape))]
    count = math.prod(fixed(shape[axis]) for axis in axes)
    once = TensorType(dtype, tuple(1 if axis in axes else size for axis, size in enumerate(shape)))
    mean = graph.emit("ReduceMean", [x, graph.constant(axes, np.int64)], once, keepdims=1)
    centred = graph.emit("Sub", [x, mean], graph.types[x])
    total = reduction("ReduceSumSquare")(graph, node, centred, axes, keepdim)
    return graph.emit("Mul", [total, graph.scalar(1 / (count - correction), beside=total)], result_type(node))


@lowers(aten._softmax.default)
def _softmax(graph: GraphBuilder, node: fx.Node, x: str, axis: int, _half: bool) -> str:
    return graph.emit("Softmax", [x], result_type(node), axis=axis)


@lowers(aten._softmax_backward_data.default)
def _softmax_backward(
    graph: GraphBuilder, node: fx.Node, grad: str, output: str, axis: int, _dtype: torch.dtype
) -> str:
    result = result_type(node)
    weighted = graph.emit("Mul", [grad, output], result)
    shape = tuple(1 if index == axis % len(result.shape) else d for index, d in enumerate(result.shape))
    total = graph.emit(
        "ReduceSum", [weighted, graph.constant([axis], np.int64)], TensorType(result.dtype, shape), keepdims=1
    )
    return graph.emit("Sub", [weighted, graph.emit("Mul", [output, total], result)], result)


@lowers(aten._log_softmax.default)
def _log_softmax(graph: GraphBuilder, node: fx.Node, x: str, axis: int, _half: bool) -> str:
    return graph.emit("LogSoftmax", [x], result_type(node), axis=axis)


@lowers(aten._log_softmax_backward_data.default)
def _log_softmax_backward(
    graph: GraphBuilder, node: fx.Node, grad: str, output: str, axis: int, _dtype: torch.dtype
) -> str:
    result = result_type(node)
    shape = list(result.shape)
    shape[axis] = 1
    axes = graph.constant([axis], np.int64)
    total = graph.emit("ReduceSum", [grad, axes], TensorType(result.dtype, tuple(shape)), keepdims=1)
    scaled = graph.emit("Mul", [graph.emit("Exp", [output], result), total], result)
    return graph.emit("Sub", [grad, scaled], result)


@lowers(aten.native_layer_norm.default)
def _native_layer_norm(
    graph: GraphBuilder, node: fx.Node, x: str, shape: list[int], weight: str | None, bias: str | None, eps: float
) -> list[str]:
    results = [tensor_type(value) for value in node.meta["val"]]
    scale = weight or graph.constant(np.ones(shape), np.float32)
    inputs = [x, scale] + ([bias] if bias else [])
    return graph.emit_several("LayerNormalization", inputs, results, axis=-len(shape), epsilon=eps)
