"""Codes of saved tensors: quantising, packing and back.

Codes of 4 bits are ONNX's type uint4, of which the engine keeps two in a byte: quantising packs them, and packing is
nothing. The engine has no view of that type, so quantised and packed shape must be the same.
"""

import numpy as np
import torch

from edge_s2a.host.ir import UINT4, UINT8, TensorType
from edge_s2a.host.lowerings.table import lowers, result_type


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
