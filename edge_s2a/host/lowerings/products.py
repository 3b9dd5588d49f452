"""Matrix products."""

import torch

from edge_s2a.host.ir import TensorType
from edge_s2a.host.lowerings.table import lowers, result_type

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
