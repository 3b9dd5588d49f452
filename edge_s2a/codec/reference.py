"""A slow, plain numpy reference of the codes that training graphs save for the backward pass.

A code is an unsigned integer of 1, 2, 4 or 8 bits. Codes are packed along the last axis: with `k = 8 / bits`
codes per byte, byte `i` of a row of `n` codes holds codes `i`, `i + n/k`, `i + 2n/k`, ..., the first of them in
the least significant bits. (A byte holds codes from different parts of a row, not neighbours, so that one Split cuts
the row, and one BitwiseAnd of the row with the bits of each part takes it apart again. The engine itself packs codes
that QuantizeLinear makes at 4 bits, neighbours in a byte; no code leaves a graph.)
"""

import math
from typing import NamedTuple

import numpy as np

GROUP_SIZE = 32

# A constant group has no range; its codes are zero whatever the scale, as long as it is not zero.
SMALLEST_SCALE = np.float32(2.0**-24)
LARGEST_HALF = float(np.finfo(np.float16).max)

# How far a derivative may lie beyond the outermost level, in steps. Half a step does not cost accuracy.
OVERSHOOT = 0.6


class Parabola(NamedTuple):
    """The function (shift + sign x) x, which is 0 at 0."""

    shift: float
    sign: int  # 1 or -1


class Levels(NamedTuple):
    """The values that codes of a known range stand for.

    Encoding: round(p(x) / encode_step) + zero with p the parabola `encode`; decoding: q((code - zero) * decode_step)
    with q the parabola `decode`. None stands for the value itself, and the levels are then uniform.
    """

    zero: int
    encode_step: float
    decode_step: float
    encode: Parabola | None = None
    decode: Parabola | None = None


def uniform_levels(low: float, high: float, bits: int) -> Levels:
    """The finest uniform levels that cover [low, high] up to OVERSHOOT, with zero and the largest whole limit
    of the function (1, or `high` where that is below 1) among them: most derivatives sit at a limit."""
    limit = min(high, 1.0)
    for steps in range(2**bits - 1, 0, -1):
        step = limit / steps
        zero = max(0, math.ceil(-low / step - OVERSHOOT))
        if (2**bits - 1 - zero + OVERSHOOT) * step >= high:
            return Levels(zero, step, step)
    raise ValueError(f"no levels of {bits} bits cover [{low}, {high}]")


def apply_parabola(x: np.ndarray, curve: Parabola | None) -> np.ndarray:
    """The value of the parabola at `x`, float32; `x` itself where `curve` is None."""
    if curve is None:
        return x
    shift = np.float32(curve.shift)
    return (shift + x if curve.sign > 0 else shift - x) * x


def group_size(n: int) -> int:
    """The largest divisor of `n` that is at most 32: values of one group share scale and minimum."""
    return max(size for size in range(1, min(n, GROUP_SIZE) + 1) if n % size == 0)


def can_pack(n: int, bits: int) -> bool:
    """Whether rows of `n` codes fill whole bytes."""
    return n % (8 // bits) == 0


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """uint8 (..., n) with values below 2**bits -> uint8 (..., n * bits / 8). Rows that do not fill
    whole bytes stay unpacked, one code per byte."""
    if not can_pack(codes.shape[-1], bits):
        return codes
    per_byte = 8 // bits
    width = codes.shape[-1] // per_byte
    packed = np.zeros((*codes.shape[:-1], width), np.uint8)
    for part in range(per_byte):
        packed |= codes[..., part * width : (part + 1) * width] << (part * bits)
    return packed


def unpack(packed: np.ndarray, bits: int, n: int) -> np.ndarray:
    """Inverse of `pack` for rows of `n` codes."""
    if not can_pack(n, bits):
        return packed
    parts = [(packed >> (part * bits)) & (2**bits - 1) for part in range(8 // bits)]
    return np.concatenate(parts, axis=-1)


def encode_groups(x: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Asymmetric min-max codes in groups along the last axis.

    x: float32 (rows, n). Returns packed codes uint8 (rows, n / group, group * bits / 8), and scale and minimum of
    each group, both float16 (rows, n / group, 1). A value is `code * scale + minimum`; that codes are chosen before
    these two are rounded costs a hundredth of a step.
    """
    rows, n = x.shape
    grouped = x.reshape(rows, -1, group_size(n))
    minimum = grouped.min(-1, keepdims=True)
    scale = (grouped.max(-1, keepdims=True) - minimum) * np.float32(1 / (2**bits - 1))
    scale = np.maximum(scale, SMALLEST_SCALE)
    codes = ((grouped - minimum) / scale).round().clip(0, 2**bits - 1).astype(np.uint8)
    return pack(codes, bits), to_half(scale), to_half(minimum)


def to_half(x: np.ndarray) -> np.ndarray:
    """float32 -> the nearest finite float16."""
    return x.clip(-LARGEST_HALF, LARGEST_HALF).astype(np.float16)


def decode_groups(packed: np.ndarray, scale: np.ndarray, minimum: np.ndarray, bits: int, n: int) -> np.ndarray:
    """Inverse of `encode_groups`, up to half a step: float32 (rows, n)."""
    codes = unpack(packed, bits, group_size(n)).astype(np.float32)
    return (codes * scale.astype(np.float32) + minimum.astype(np.float32)).reshape(len(packed), n)


def encode_levels(x: np.ndarray, bits: int, levels: Levels) -> np.ndarray:
    """Codes of values in a range known beforehand, packed along the last axis."""
    codes = (apply_parabola(x, levels.encode) / np.float32(levels.encode_step)).round() + levels.zero
    return pack(codes.clip(0, 2**bits - 1).astype(np.uint8), bits)


def decode_levels(packed: np.ndarray, bits: int, n: int, levels: Levels) -> np.ndarray:
    """Inverse of `encode_levels`, up to half a step: float32 (..., n)."""
    values = (unpack(packed, bits, n).astype(np.float32) - levels.zero) * np.float32(levels.decode_step)
    return apply_parabola(values, levels.decode)
