"""Matrix products."""

import numpy as np
import torch

from edge_s2a.host.graph.ir import UINT8, TensorType
from edge_s2a.host.graph.lowerings.table import FLOAT32, lowers, result_type
from edge_s2a.host.trace.operators.linear import LARGEST_CODE, SMALLEST_ROW

aten = torch.ops.aten


def _product_operand(low, value: str) -> tuple[str, int]:
    """The matrix to read and whether the product is to transpose it."""
    transpose = int(value in low.transposed)
    value = low.transposed.get(value, value)
    return low.expanded.get(value, value), transpose


@lowers(aten.mm.default)
def _mm(low, node, a, b):
    (a, trans_a), (b, trans_b) = _product_operand(low, a), _product_operand(low, b)
    return low.emit("Gemm", [a, b], result_type(node), transA=trans_a, transB=trans_b)


@lowers(aten.addmm.default)
def _addmm(low, node, bias, a, b, beta=1, alpha=1):
    (a, trans_a), (b, trans_b) = _product_operand(low, a), _product_operand(low, b)
    return low.emit(
        "Gemm", [a, b, bias], result_type(node),
        transA=trans_a, transB=trans_b, alpha=float(alpha), beta=float(beta),
    )  # fmt: skip


@lowers(aten.bmm.default)
def _bmm(low, node, a, b):
    (a, trans_a), (b, trans_b) = _product_operand(low, a), _product_operand(low, b)
    result = result_type(node)
    is_repeated = result.is_batched() and not low.types[a].is_batched() and not low.types[b].is_batched()
    if is_repeated:  # the same product for every image, so computed once
        leading = [1] if 3 in (len(low.types[a].shape), len(low.types[b].shape)) else []
        once = TensorType(result.dtype, (*leading, *result.shape[1:]))
        product = low.emit("FusedMatMul", [a, b], once, "com.microsoft", transA=trans_a, transB=trans_b)
        return low.repeat(product, result)
    return low.emit("FusedMatMul", [a, b], result, "com.microsoft", transA=trans_a, transB=trans_b)


# -- int8 ----------------------------------------------------------------------------------------------

ZERO = 128  # of the left matrix's codes: products of uint8 and int8 are fast everywhere, of int8 and int8 on Arm alone


@lowers(torch.ops.edge_s2a.int8_product.default)
def _int8_product(low, node, x, weight):
    codes, scale = low.weight_members(weight)
    kind = low.types[codes]
    transposed = low.emit("Transpose", [codes], TensorType(kind.dtype, kind.shape[::-1]), perm=[1, 0])
    return _product_of_rows(low, x, transposed, scale, result_type(node))


@lowers(torch.ops.edge_s2a.int8_product_of_gradient.default)
def _int8_product_of_gradient(low, node, grad, weight):
    codes, scale = low.weight_members(weight)
    scaled = low.emit("Mul", [grad, scale], low.types[grad])
    return _product_of_rows(low, scaled, codes, low.constant(1, np.float32), result_type(node))


def _product_of_rows(low, x: str, right: str, right_scale: str, result: TensorType) -> str:
    """x float32 (rows, n) in uint8 codes with a scale for each row, times `right` int8 (n, columns)."""
    rows, n = low.types[x].shape
    column, vector = TensorType(FLOAT32, (rows, 1)), TensorType(FLOAT32, (rows,))
    axis, one, zero = low.constant([-1], np.int64), low.constant(1, np.float32), low.constant(ZERO, UINT8)
    # Two reductions and no magnitudes, which would take as much memory as x.
    highest = low.emit("ReduceMax", [x, axis], column, keepdims=1)
    lowest = low.emit("ReduceMin", [x, axis], column, keepdims=1)
    negated = low.emit("Neg", [lowest], column)
    # Of three operands the engine's Max makes one more buffer.
    magnitude = low.emit("Max", [highest, negated], column)
    magnitude = low.emit("Max", [magnitude, low.scalar(SMALLEST_ROW, beside=magnitude)], column)
    scale = low.emit("Mul", [magnitude, low.scalar(1 / LARGEST_CODE, beside=magnitude)], column)
    # A zero point for each row, too. Expand would need a Shape, which the engine runs before all other nodes.
    scales = low.reshape(scale, vector.shape)
    zeros = low.emit("Mul", [scales, low.constant(0, np.float32)], vector)
    zeros = low.emit("QuantizeLinear", [zeros, one, zero], TensorType(UINT8, vector.shape))
    codes = low.emit("QuantizeLinear", [x, scales, zeros], TensorType(UINT8, (rows, n)), axis=0)
    product = low.emit("MatMulIntegerToFloat", [codes, right, one, right_scale, zero], result, "com.microsoft")
    return low.emit("Mul", [product, scale], result)
