"""Codes of saved tensors: quantising, packing, and back.

Codes of 4 bits are of ONNX's type uint4, of which the engine keeps two in a byte: quantising packs them, and packing
does nothing. The engine has no view of that type, so the quantised and the packed shape must be the same.
"""

import numpy as np
import torch
from torch import fx

from edge_s2a.host.graph.builder import GraphBuilder
from edge_s2a.host.graph.ir import FLOAT32, UINT4, UINT8, TensorType
from edge_s2a.host.graph.lowerings.table import lowers, result_type
from edge_s2a.host.trace.codes import POSITIVE_STEP


@lowers(torch.ops.edge_s2a.quantize.default)
def _quantize(graph: GraphBuilder, node: fx.Node, x: str, step: float, zero: int, bits: int) -> str:
    is_packed = all(user.target is torch.ops.edge_s2a.pack_bits.default for user in node.users)
    dtype = UINT4 if bits == 4 and is_packed else UINT8
    inputs = [x, graph.constant(step, np.float32), graph.constant(zero, dtype)]
    codes = graph.emit("QuantizeLinear", inputs, TensorType(dtype, result_type(node).shape))
    if bits == 8 or dtype == UINT4:
        return codes
    limits = [graph.constant(limit, dtype) for limit in (0, 2**bits - 1)]
    return graph.emit("Clip", [codes, *limits], graph.types[codes])


@lowers(torch.ops.edge_s2a.dequantize.default)
def _dequantize(graph: GraphBuilder, node: fx.Node, codes: str, step: float, zero: int) -> str:
    inputs = [codes, graph.constant(step, np.float32), graph.constant(zero, graph.types[codes].dtype)]
    values = graph.emit("DequantizeLinear", inputs, result_type(node))
    # The engine runs a DequantizeLinear once for each of its readers, and keeps all of the results.
    return graph.emit("Identity", [values], result_type(node)) if len(node.users) > 1 else values


@lowers(torch.ops.edge_s2a.pack_bits.default)
def _pack(graph: GraphBuilder, node: fx.Node, codes: str, bits: int) -> str:
    if graph.types[codes].dtype == UINT4:
        return codes
    packed = result_type(node)
    count = 8 // bits
    sizes = graph.constant([packed.shape[-1]] * count, np.int64)
    parts = graph.emit_several("Split", [codes, sizes], [packed] * count, axis=-1)
    result = parts[0]
    for index, part in enumerate(parts[1:], 1):
        shifted = graph.emit("BitShift", [part, graph.constant(index * bits, UINT8)], packed, direction="LEFT")
        result = graph.emit("BitwiseOr", [result, shifted], packed)
    return result


@lowers(torch.ops.edge_s2a.pack_positive.default)
def _pack_positive(graph: GraphBuilder, node: fx.Node, x: str) -> str:
    """Each value becomes a byte of all bits or none; each part of a row keeps the bit that is its own, and the parts
    are joined."""
    packed = result_type(node)
    *rows, width = packed.shape
    inputs = [x, graph.constant(POSITIVE_STEP, np.float32), graph.constant(0, UINT8)]
    full = graph.emit("QuantizeLinear", inputs, TensorType(UINT8, graph.types[x].shape))
    places = TensorType(UINT8, (*rows, 8, width))
    own = graph.emit("BitwiseAnd", [graph.reshape(full, places.shape), graph.constant(masks(1), UINT8)], places)
    part = TensorType(UINT8, (*rows, 1, width))
    first, *others = graph.emit_several("Split", [own, graph.constant([1] * 8, np.int64)], [part] * 8, axis=-2)
    for other in others:
        first = graph.emit("BitwiseOr", [first, other], part)
    return graph.reshape(first, packed.shape)


@lowers(torch.ops.edge_s2a.dequantize_packed.default)
def _dequantize_packed(graph: GraphBuilder, node: fx.Node, packed: str, step: float, zero: int, bits: int) -> str:
    """Each part of a row stays in the bits that it has in a byte; its step and zero are scaled for these bits."""
    *rows, width = graph.types[packed].shape
    places = (*rows, 8 // bits, width)
    column = graph.reshape(packed, (*rows, 1, width))
    own = graph.emit("BitwiseAnd", [column, graph.constant(masks(bits), UINT8)], TensorType(UINT8, places))
    factors = 2 ** np.arange(0, 8, bits)
    inputs = [own, graph.constant(step / factors, np.float32), graph.constant(zero * factors, UINT8)]
    values = graph.emit("DequantizeLinear", inputs, TensorType(FLOAT32, places), axis=len(rows))
    if len(node.users) > 1:  # as above
        values = graph.emit("Identity", [values], graph.types[values])
    return graph.reshape(values, result_type(node).shape)


def masks(bits: int) -> np.ndarray:
    """uint8 (8 / bits, 1): the bits of a byte that hold the code of each part of a row."""
    return ((2**bits - 1) << np.arange(0, 8, bits)).astype(np.uint8)[:, None]


@lowers(torch.ops.edge_s2a.unpack_bits.default)
def _unpack(graph: GraphBuilder, node: fx.Node, packed: str, bits: int) -> str:
    kind = graph.types[packed]
    if kind.dtype == UINT4:
        return packed
    mask = graph.constant(2**bits - 1, UINT8)
    parts = []
    for shift in range(0, 8, bits):
        part = packed
        if shift:
            part = graph.emit("BitShift", [part, graph.constant(shift, UINT8)], kind, direction="RIGHT")
        parts.append(graph.emit("BitwiseAnd", [part, mask], kind) if shift + bits < 8 else part)
    return graph.emit("Concat", parts, result_type(node), axis=-1)
