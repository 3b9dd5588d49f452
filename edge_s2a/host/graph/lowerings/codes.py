"""Codes of saved tensors: quantising, packing and back.

Codes of 4 bits are ONNX's type uint4, of which the engine keeps two in a byte: quantising packs them, and packing is
nothing. The engine has no view of that type, so quantised and packed shape must be the same.
"""

import numpy as np
import torch

from edge_s2a.host.graph.ir import UINT4, UINT8, TensorType
from edge_s2a.host.graph.lowerings.table import FLOAT32, lowers, result_type
from edge_s2a.host.trace.codes import POSITIVE_STEP


@lowers(torch.ops.edge_s2a.quantize.default)
def _quantize(low, node, x, step, zero, bits):
    is_packed = all(user.target is torch.ops.edge_s2a.pack_bits.default for user in node.users)
    dtype = UINT4 if bits == 4 and is_packed else UINT8
    inputs = [x, low.constant(step, np.float32), low.constant(zero, dtype)]
    codes = low.emit("QuantizeLinear", inputs, TensorType(dtype, result_type(node).shape))
    if bits == 8 or dtype == UINT4:
        return codes
    limits = [low.constant(limit, dtype) for limit in (0, 2**bits - 1)]
    return low.emit("Clip", [codes, *limits], low.types[codes])


@lowers(torch.ops.edge_s2a.dequantize.default)
def _dequantize(low, node, codes, step, zero):
    inputs = [codes, low.constant(step, np.float32), low.constant(zero, low.types[codes].dtype)]
    values = low.emit("DequantizeLinear", inputs, result_type(node))
    # The engine runs a DequantizeLinear once for each of its readers, and keeps all of the results.
    return low.emit("Identity", [values], result_type(node)) if len(node.users) > 1 else values


@lowers(torch.ops.edge_s2a.pack_bits.default)
def _pack(low, node, codes, bits):
    if low.types[codes].dtype == UINT4:
        return codes
    packed = result_type(node)
    count = 8 // bits
    sizes = low.constant([packed.shape[-1]] * count, np.int64)
    parts = low.emit("Split", [codes, sizes], [packed] * count, axis=-1)
    result = parts[0]
    for index, part in enumerate(parts[1:], 1):
        shifted = low.emit("BitShift", [part, low.constant(index * bits, UINT8)], packed, direction="LEFT")
        result = low.emit("BitwiseOr", [result, shifted], packed)
    return result


@lowers(torch.ops.edge_s2a.pack_positive.default)
def _pack_positive(low, node, x):
    """All bits of a byte or none; of these each part keeps the bit that is its own, and then they are joined."""
    packed = result_type(node)
    *rows, width = packed.shape
    inputs = [x, low.constant(POSITIVE_STEP, np.float32), low.constant(0, UINT8)]
    full = low.emit("QuantizeLinear", inputs, TensorType(UINT8, low.types[x].shape))
    places = TensorType(UINT8, (*rows, 8, width))
    own = low.emit("BitwiseAnd", [low.reshape(full, places.shape), low.constant(masks(1), UINT8)], places)
    part = TensorType(UINT8, (*rows, 1, width))
    first, *others = low.emit("Split", [own, low.constant([1] * 8, np.int64)], [part] * 8, axis=-2)
    for other in others:
        first = low.emit("BitwiseOr", [first, other], part)
    return low.reshape(first, packed.shape)


@lowers(torch.ops.edge_s2a.dequantize_packed.default)
def _dequantize_packed(low, node, packed, step, zero, bits):
    """Each part of a row stays in the bits it has in a byte; its step and zero are those of these bits."""
    *rows, width = low.types[packed].shape
    places = (*rows, 8 // bits, width)
    column = low.reshape(packed, (*rows, 1, width))
    own = low.emit("BitwiseAnd", [column, low.constant(masks(bits), UINT8)], TensorType(UINT8, places))
    factors = 2 ** np.arange(0, 8, bits)
    inputs = [own, low.constant(step / factors, np.float32), low.constant(zero * factors, UINT8)]
    values = low.emit("DequantizeLinear", inputs, TensorType(FLOAT32, places), axis=len(rows))
    if len(node.users) > 1:  # as above
        values = low.emit("Identity", [values], low.types[values])
    return low.reshape(values, result_type(node).shape)


def masks(bits: int) -> np.ndarray:
    """uint8 (8 / bits, 1): where in a byte the code of each part of a row is."""
    return ((2**bits - 1) << np.arange(0, 8, bits)).astype(np.uint8)[:, None]


@lowers(torch.ops.edge_s2a.unpack_bits.default)
def _unpack(low, node, packed, bits):
    kind = low.types[packed]
    if kind.dtype == UINT4:
        return packed
    mask = low.constant(2**bits - 1, UINT8)
    parts = []
    for shift in range(0, 8, bits):
        part = packed
        if shift:
            part = low.emit("BitShift", [part, low.constant(shift, UINT8)], kind, direction="RIGHT")
        parts.append(low.emit("BitwiseAnd", [part, mask], kind) if shift + bits < 8 else part)
    return low.emit("Concat", parts, result_type(node), axis=-1)
