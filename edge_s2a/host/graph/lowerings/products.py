"""Matrix products."""

import numpy as np
import torch
from torch import fx

from edge_s2a.host.graph.builder import GraphBuilder
from edge_s2a.host.graph.ir import FLOAT32, UINT8, TensorType
from edge_s2a.host.graph.lowerings.table import lowers, result_type
from edge_s2a.host.trace.operators.linear import LARGEST_CODE, SMALLEST_ROW

aten = torch.ops.aten


def _product_operand(graph: GraphBuilder, value: str) -> tuple[str, int]:
    """The matrix to read and whether the product is to transpose it."""
    transpose = int(value in graph.transposed)
    value = graph.transposed.get(value, value)
    return graph.expanded.get(value, value), transpose


@lowers(aten.mm.default)
def _mm(graph: GraphBuilder, node: fx.Node, a: str, b: str) -> str:
    (a, trans_a), (b, trans_b) = _product_operand(graph, a), _product_operand(graph, b)
    return graph.emit("Gemm", [a, b], result_type(node), transA=trans_a, transB=trans_b)


@lowers(aten.addmm.default)
def _addmm(graph: GraphBuilder, node: fx.Node, bias: str, a: str, b: str, beta: float = 1, alpha: float = 1) -> str:
    (a, trans_a), (b, trans_b) = _product_operand(graph, a), _product_operand(graph, b)
    return graph.emit(
        "Gemm", [a, b, bias], result_type(node),
        transA=trans_a, transB=trans_b, alpha=float(alpha), beta=float(beta),
    )  # fmt: skip


@lowers(aten.bmm.default)
def _bmm(graph: GraphBuilder, node: fx.Node, a: str, b: str) -> str:
    (a, trans_a), (b, trans_b) = _product_operand(graph, a), _product_operand(graph, b)
    result = result_type(node)
    is_repeated = result.is_batched() and not graph.types[a].is_batched() and not graph.types[b].is_batched()
    if is_repeated:  # the same product for every image, so computed once
        leading = [1] if 3 in (len(graph.types[a].shape), len(graph.types[b].shape)) else []
        once = TensorType(result.dtype, (*leading, *result.shape[1:]))
        product = graph.emit("FusedMatMul", [a, b], once, "com.microsoft", transA=trans_a, transB=trans_b)
        return graph.repeat(product, result)
    return graph.emit("FusedMatMul", [a, b], result, "com.microsoft", transA=trans_a, transB=trans_b)


# -- int8 ----------------------------------------------------------------------------------------------

ZERO = 128  # of the left matrix's codes: products of uint8 and int8 are fast everywhere, of int8 and int8 only on Arm


@lowers(torch.ops.edge_s2a.int8_product.default)
def _int8_product(graph: GraphBuilder, node: fx.Node, x: str, weight: str) -> str:
    codes, scale = graph.weight_members(weight)
    kind = graph.types[codes]
    transposed = graph.emit("Transpose", [codes], TensorType(kind.dtype, kind.shape[::-1]), perm=[1, 0])
    return _product_of_rows(graph, x, transposed, scale, result_type(node))


@lowers(torch.ops.edge_s2a.int8_product_of_gradient.default)
def _int8_product_of_gradient(graph: GraphBuilder, node: fx.Node, grad: str, weight: str) -> str:
    codes, scale = graph.weight_members(weight)
    scaled = graph.emit("Mul", [grad, scale], graph.types[grad])
    return _product_of_rows(graph, scaled, codes, graph.constant(1, np.float32), result_type(node))


def _product_of_rows(graph: GraphBuilder, x: str, right: str, right_scale: str, result: TensorType) -> str:
    """x float32 (rows, n), rounded to uint8 codes with a scale for each row, times `right` int8 (n, columns)."""
    rows, n = graph.types[x].shape
    column, vector = TensorType(FLOAT32, (rows, 1)), TensorType(FLOAT32, (rows,))
    axis, one, zero = graph.constant([-1], np.int64), graph.constant(1, np.float32), graph.constant(ZERO, UINT8)
    # Two reductions instead of magnitudes, which would take as much memory as x.
    highest = graph.emit("ReduceMax", [x, axis], column, keepdims=1)
    lowest = graph.emit("ReduceMin", [x, axis], column, keepdims=1)
    negated = graph.emit("Neg", [lowest], column)
    # Of three operands the engine's Max makes one more buffer.
    magnitude = graph.emit("Max", [highest, negated], column)
    magnitude = graph.emit("Max", [magnitude, graph.scalar(SMALLEST_ROW, beside=magnitude)], column)
    scale = graph.emit("Mul", [magnitude, graph.scalar(1 / LARGEST_CODE, beside=magnitude)], column)
    # A zero point for each row. Expand would need a Shape, which the engine runs before all other nodes.
    scales = graph.reshape(scale, vector.shape)
    zeros = graph.emit("Mul", [scales, graph.constant(0, np.float32)], vector)
    zeros = graph.emit("QuantizeLinear", [zeros, one, zero], TensorType(UINT8, vector.shape))
    codes = graph.emit("QuantizeLinear", [x, scales, zeros], TensorType(UINT8, (rows, n)), axis=0)
    product = graph.emit("MatMulIntegerToFloat", [codes, right, one, right_scale, zero], result, "com.microsoft")
    return graph.emit("Mul", [product, scale], result)
