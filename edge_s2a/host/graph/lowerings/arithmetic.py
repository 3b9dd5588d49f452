"""Elementwise operators, codes, reductions, softmax and norms."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import fx

from edge_s2a.errors import UserError
from edge_s2a.host.graph.ir import TensorType
from edge_s2a.host.graph.lowerings.table import LOWERINGS, lowers, result_type, tensor_type

aten = torch.ops.aten


def elementwise(op: str) -> Callable:
    def function(low, node: fx.Node, *operands, **_) -> str:
        dtype = operand_dtype(low, operands)
        tensor = next(x for x in operands if isinstance(x, str))
        names = [cast(low, x, dtype) if isinstance(x, str) else low.scalar(x, beside=tensor) for x in operands]
        return low.emit(op, names, result_type(node))

    return function


def operand_dtype(low, operands) -> np.dtype:
    """Of the tensors among the operands, which differs from the result's in comparisons; a float one rules."""
    dtypes = [low.types[x].dtype for x in operands if isinstance(x, str)]
    return next((dtype for dtype in dtypes if dtype.kind == "f"), dtypes[0])


def cast(low, value: str, dtype: np.dtype) -> str:
    before, shape = low.types[value]
    return value if before == dtype else low.emit("Cast", [value], TensorType(dtype, shape), to=dtype)


for _target, _op in {
    aten.relu.default: "Relu",
    aten.abs.default: "Abs",
    aten.log.default: "Log",
    aten.sin.default: "Sin",
    aten.cos.default: "Cos",
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
}.items():
    LOWERINGS[_target] = elementwise(_op)


@lowers(aten.mul.Tensor, aten.mul.Scalar)
def _mul(low, node, a, b):
    return low.other_operand(node, 1) or elementwise("Mul")(low, node, a, b)


@lowers(aten.addcmul.default)
def _addcmul(low, node, a, b, c, value=1):
    result = result_type(node)
    product = low.emit("Mul", [b, c], result)
    if value != 1:
        product = low.emit("Mul", [product, low.scalar(value, beside=product)], result)
    return low.emit("Add", [a, product], result)


@lowers(aten.where.self)
def _where(low, node, mask, a, b):
    return low.emit("Where", [mask, a, b], result_type(node))


@lowers(aten.masked_fill.Scalar)
def _masked_fill(low, node, x, mask, value):
    return low.emit("Where", [mask, low.constant(value, result_type(node).dtype), x], result_type(node))


@lowers(aten.cumsum.default)
def _cumsum(low, node, x, axis, dtype=None):
    result = result_type(node)
    return low.emit("CumSum", [cast(low, x, result.dtype), low.constant(axis, np.int64)], result)


@lowers(aten.linalg_vector_norm.default)
def _vector_norm(low, node, x, order=2, axes=None, keepdim=False, **_):
    if order != 2:
        raise UserError(f"a vector norm of order {order} has no lowering to ONNX yet; choose another model")
    return reduction("ReduceL2")(low, node, x, axes, keepdim)


@lowers(aten.bitwise_and.Tensor)
def _bitwise_and(low, node, a, b):
    return elementwise("And" if result_type(node).dtype == np.bool_ else "BitwiseAnd")(low, node, a, b)


@lowers(aten.threshold_backward.default)
def _threshold_backward(low, node, grad, x, threshold):
    mask = low.emit(
        "Greater", [x, low.constant(threshold, np.float32)], TensorType(np.dtype(np.bool_), low.types[x].shape)
    )
    return low.emit("Where", [mask, grad, low.constant(0, np.float32)], result_type(node))


@lowers(aten.add.Tensor, aten.add.Scalar)
def _add(low, node, a, b, alpha=1):
    if same := low.other_operand(node, 0):
        return same
    return elementwise("Add")(low, node, a, _scaled(low, node, b, alpha))


@lowers(aten.sub.Tensor, aten.sub.Scalar)
def _sub(low, node, a, b, alpha=1):
    if same := low.other_operand(node, 0, only_second=True):
        return same
    return elementwise("Sub")(low, node, a, _scaled(low, node, b, alpha))


@lowers(aten.rsub.Scalar)
def _rsub(low, node, a, b, alpha=1):
    return elementwise("Sub")(low, node, b, _scaled(low, node, a, alpha))


def _scaled(low, node, value, alpha):
    return value if alpha == 1 else elementwise("Mul")(low, node, value, alpha)


@lowers(aten.pow.Tensor_Scalar)
def _pow(low, node, x, exponent):
    if exponent == 2:
        return low.emit("Mul", [x, x], result_type(node))
    return elementwise("Pow")(low, node, x, float(exponent))


@lowers(aten.rsqrt.default)
def _rsqrt(low, node, x):
    return low.emit("Reciprocal", [low.emit("Sqrt", [x], result_type(node))], result_type(node))


@lowers(aten.clamp.default)
def _clamp(low, node, x, low_bound=None, high_bound=None):
    dtype = result_type(node).dtype
    bounds = ["" if bound is None else low.constant(bound, dtype) for bound in (low_bound, high_bound)]
    return low.emit("Clip", [x, *bounds], result_type(node))


@lowers(aten.clamp_min.default)
def _clamp_min(low, node, x, bound):
    return _clamp(low, node, x, bound)


@lowers(aten.clamp_max.default)
def _clamp_max(low, node, x, bound):
    return _clamp(low, node, x, None, bound)


@lowers(aten.gelu.default)
def _gelu(low, node, x, approximate="none"):
    return low.emit("Gelu", [x], result_type(node), approximate=approximate)


@lowers(aten._to_copy.default)
def _to_copy(low, node, x, dtype=None, **_):
    return cast(low, x, result_type(node).dtype)


def reduction(op: str) -> Callable:
    def function(low, node, x, axes=None, keepdim=False, **_):
        axes = [axes] if isinstance(axes, int) else axes
        x = cast(low, x, result_type(node).dtype)
        inputs = [x] if not axes else [x, low.constant(list(axes), np.int64)]
        return low.emit(op, inputs, result_type(node), keepdims=int(keepdim))

    return function


LOWERINGS[aten.sum.dim_IntList] = LOWERINGS[aten.sum.default] = reduction("ReduceSum")
LOWERINGS[aten.mean.dim] = LOWERINGS[aten.mean.default] = reduction("ReduceMean")
LOWERINGS[aten.amin.default] = reduction("ReduceMin")
LOWERINGS[aten.amax.default] = reduction("ReduceMax")


@lowers(aten.var.correction)
def _var(low, node, x, axes=None, correction=1, keepdim=False):
    dtype, shape = low.types[x]
    axes = [axis % len(shape) for axis in axes or range(len(shape))]
    count = math.prod(shape[axis] for axis in axes)
    once = TensorType(dtype, tuple(1 if axis in axes else size for axis, size in enumerate(shape)))
    mean = low.emit("ReduceMean", [x, low.constant(axes, np.int64)], once, keepdims=1)
    centred = low.emit("Sub", [x, mean], low.types[x])
    total = reduction("ReduceSumSquare")(low, node, centred, axes, keepdim)
    return low.emit("Mul", [total, low.scalar(1 / (count - correction), beside=total)], result_type(node))


@lowers(aten._softmax.default)
def _softmax(low, node, x, axis, _half):
    return low.emit("Softmax", [x], result_type(node), axis=axis)


@lowers(aten._softmax_backward_data.default)
def _softmax_backward(low, node, grad, output, axis, _dtype):
    result = result_type(node)
    weighted = low.emit("Mul", [grad, output], result)
    shape = tuple(1 if index == axis % len(result.shape) else d for index, d in enumerate(result.shape))
    total = low.emit(
        "ReduceSum", [weighted, low.constant([axis], np.int64)], TensorType(result.dtype, shape), keepdims=1
    )
    return low.emit("Sub", [weighted, low.emit("Mul", [output, total], result)], result)


@lowers(aten._log_softmax.default)
def _log_softmax(low, node, x, axis, _half):
    return low.emit("LogSoftmax", [x], result_type(node), axis=axis)


@lowers(aten._log_softmax_backward_data.default)
def _log_softmax_backward(low, node, grad, output, axis, _dtype):
    result = result_type(node)
    shape = list(result.shape)
    shape[axis] = 1
    axes = low.constant([axis], np.int64)
    total = low.emit("ReduceSum", [grad, axes], TensorType(result.dtype, tuple(shape)), keepdims=1)
    scaled = low.emit("Mul", [low.emit("Exp", [output], result), total], result)
    return low.emit("Sub", [grad, scaled], result)


@lowers(aten.native_layer_norm.default)
def _native_layer_norm(low, node, x, shape, weight, bias, eps):
    results = [tensor_type(value) for value in node.meta["val"]]
    scale = weight or low.constant(np.ones(shape), np.float32)
    inputs = [x, scale] + ([bias] if bias else [])
    return low.emit("LayerNormalization", inputs, results, axis=-len(shape), epsilon=eps)
