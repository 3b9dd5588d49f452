"""Low-bit codes in torch, the same arithmetic as `edge_s2a.codec.reference`."""

from typing import NamedTuple

import torch
from torch import Tensor

from edge_s2a.codec.reference import LARGEST_HALF, SMALLEST_SCALE, Levels, Parabola, can_pack, group_size

# QuantizeLinear by this step makes 255, all bits, of whatever is at least LEAST_POSITIVE, with infinity at worst on
# the way. Smaller positive values count as zero; a ReLU's result is not so small by chance.
POSITIVE_STEP = 2.0**-100
LEAST_POSITIVE = 254.5 * POSITIVE_STEP


@torch.library.custom_op("edge_s2a::quantize", mutates_args=())
def quantize(x: Tensor, step: float, zero: int, bits: int) -> Tensor:
    """clip(round(x / step) + zero, 0, 2**bits - 1) as uint8; one ONNX QuantizeLinear."""
    return ((x / step).round() + zero).clamp(0, 2**bits - 1).to(torch.uint8)


@quantize.register_fake
def _(x: Tensor, step: float, zero: int, bits: int) -> Tensor:
    return torch.empty_like(x, dtype=torch.uint8, memory_format=torch.contiguous_format)


@torch.library.custom_op("edge_s2a::dequantize", mutates_args=())
def dequantize(codes: Tensor, step: float, zero: int) -> Tensor:
    """(codes - zero) * step as float32; one ONNX DequantizeLinear."""
    return (codes.float() - zero) * step


@dequantize.register_fake
def _(codes: Tensor, step: float, zero: int) -> Tensor:
    return torch.empty_like(codes, dtype=torch.float32, memory_format=torch.contiguous_format)


@torch.library.custom_op("edge_s2a::pack_bits", mutates_args=())
def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """`pack` where it changes anything. It is an operator, for the engine packs codes of 4 bits itself."""
    parts = codes.split(codes.shape[-1] * bits // 8, dim=-1)
    packed = parts[0].clone()
    for index, part in enumerate(parts[1:], 1):
        packed |= part << (index * bits)
    return packed


@pack_bits.register_fake
def _(codes: Tensor, bits: int) -> Tensor:
    return codes.new_empty(*codes.shape[:-1], codes.shape[-1] * bits // 8)


@torch.library.custom_op("edge_s2a::unpack_bits", mutates_args=())
def unpack_bits(packed: Tensor, bits: int) -> Tensor:
    """`unpack` where it changes anything."""
    return torch.cat([(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)], dim=-1)


@unpack_bits.register_fake
def _(packed: Tensor, bits: int) -> Tensor:
    return packed.new_empty(*packed.shape[:-1], packed.shape[-1] * 8 // bits)


@torch.library.custom_op("edge_s2a::pack_positive", mutates_args=())
def pack_positive(x: Tensor) -> Tensor:
    """`pack_bits` of one bit per value: whether float32 x (..., n), n a multiple of 8, is at least LEAST_POSITIVE."""
    return pack_bits((x >= LEAST_POSITIVE).to(torch.uint8), 1)


@pack_positive.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 8), dtype=torch.uint8)


@torch.library.custom_op("edge_s2a::dequantize_packed", mutates_args=())
def dequantize_packed(packed: Tensor, step: float, zero: int, bits: int) -> Tensor:
    """`dequantize` of `unpack_bits`, for codes of 1 or 2 bits; two ONNX operators."""
    return dequantize(unpack_bits(packed, bits), step, zero)


@dequantize_packed.register_fake
def _(packed: Tensor, step: float, zero: int, bits: int) -> Tensor:
    return packed.new_empty((*packed.shape[:-1], packed.shape[-1] * 8 // bits), dtype=torch.float32)


def pack(codes: Tensor, bits: int) -> Tensor:
    """uint8 (..., n) -> uint8 (..., n * bits / 8); see `edge_s2a.codec.reference.pack`."""
    return pack_bits(codes, bits) if bits < 8 and can_pack(codes.shape[-1], bits) else codes


def unpack(packed: Tensor, bits: int, n: int) -> Tensor:
    """uint8 (..., n * bits / 8) -> uint8 (..., n)."""
    return unpack_bits(packed, bits) if bits < 8 and can_pack(n, bits) else packed


def decode(packed: Tensor, bits: int, n: int, step: float = 1.0, zero: int = 0) -> Tensor:
    """uint8 (..., n * bits / 8) -> float32 (..., n): (code - zero) * step."""
    if bits < 4 and can_pack(n, bits):
        return dequantize_packed(packed, step, zero, bits)
    return dequantize(unpack(packed, bits, n), step, zero)


class Groups(NamedTuple):
    """Codes of a tensor (rows, n) with scale and minimum for each group of at most 32 values."""

    packed: Tensor  # uint8 (rows, n / group, group * bits / 8)
    scale: Tensor  # float16 (rows, n / group, 1)
    minimum: Tensor  # float16 (rows, n / group, 1)


def encode_groups(x: Tensor, bits: int) -> Groups:
    """float32 (rows, n) -> its codes."""
    rows, n = x.shape
    grouped = x.view(rows, n // group_size(n), group_size(n))
    low = grouped.amin(-1, keepdim=True)
    scale = ((grouped.amax(-1, keepdim=True) - low) * (1 / (2**bits - 1))).clamp(min=float(SMALLEST_SCALE))
    codes = quantize((grouped - low) / scale, 1.0, 0, bits)
    return Groups(pack(codes, bits), to_half(scale), to_half(low))


def decode_groups(saved: Groups, bits: int, n: int) -> Tensor:
    """The float32 (rows, n) that `encode_groups` saved."""
    packed, scale, minimum = saved
    codes = decode(packed, bits, group_size(n))
    return (codes * scale.float() + minimum.float()).view(packed.shape[0], n)


def to_half(x: Tensor) -> Tensor:
    """float32 -> the nearest finite float16: a value beyond its range makes a gradient wrong, not infinite."""
    return x.clamp(-LARGEST_HALF, LARGEST_HALF).half()


def encode_levels(x: Tensor, bits: int, levels: Levels) -> Tensor:
    """Codes of values whose range is known beforehand."""
    return pack(quantize(apply_parabola(x, levels.encode), levels.encode_step, levels.zero, bits), bits)


def decode_levels(packed: Tensor, bits: int, n: int, levels: Levels) -> Tensor:
    """The float32 (..., n) that `encode_levels` saved."""
    return apply_parabola(decode(packed, bits, n, levels.decode_step, levels.zero), levels.decode)


def levels_of_multiple(levels: Levels, factor: float) -> Levels:
    """The levels with which `encode_levels` codes factor * x as it codes x with `levels`."""
    if levels.encode is None:
        return levels._replace(encode_step=levels.encode_step * factor)
    shift, sign = levels.encode
    return levels._replace(encode_step=levels.encode_step * factor**2, encode=Parabola(shift * factor, sign))


def apply_parabola(x: Tensor, curve: Parabola | None) -> Tensor:
    """The value of the parabola at `x`; `x` itself where `curve` is None."""
    if curve is None:
        return x
    return (x + curve.shift if curve.sign > 0 else curve.shift - x) * x
