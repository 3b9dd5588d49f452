"""Weights in blocks of 4-bit codes: a float16 scale for each block, no zero point.

The scale has a sign: the value of largest magnitude may become the code -8, whichever its sign, so all sixteen codes
are of use. (Measured on DeiT-Tiny, blocks of 32: 9.1 % relative error of the weights, 10.3 % with a positive scale.) A
byte holds codes from the two halves of a weight, not two neighbours: halves are joined by one Concat.
"""

import numpy as np

from edge_s2a.codec.reference import group_size

SMALLEST_BLOCK = 16  # of a smaller block the scale would be too large a part
ZERO = 8  # is added to the codes -8 to 7, so that they are stored without a sign
# Scales to try, relative to the one that covers the whole block. Measured on DeiT-Tiny: 8.7 % error with the best of
# these, 9.1 % with 1 alone.
SCALE_FACTORS = (1.0, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1)


def block_size(shape: tuple[int, ...]) -> int | None:
    """The number of neighbours along the flattened input axes of a weight (outputs, ...) that share a scale: the
    largest divisor of the row's length that is at most 32. None for weights that int4 does not suit: blocks would be
    smaller than SMALLEST_BLOCK (depthwise 3x3 kernels), or the number of codes odd."""
    size = group_size(int(np.prod(shape[1:])))
    return size if size >= SMALLEST_BLOCK and np.prod(shape) % 2 == 0 else None


def quantize_blocks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (outputs, ...) of n values -> packed codes uint8 (n / 2,) and scales float16 (blocks,).

    Each block has the scale of least squared error that SCALE_FACTORS give; the first of equals. Raises ValueError for
    a shape without blocks, see `block_size`.
    """
    size = block_size(values.shape)
    if size is None:
        raise ValueError(f"a weight of shape {values.shape} has no blocks")
    blocks = values.reshape(-1, size)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)
    scale = scale_by(largest, SCALE_FACTORS[0])
    least = squared_errors(blocks, scale)
    for factor in SCALE_FACTORS[1:]:
        tried = scale_by(largest, factor)
        error = squared_errors(blocks, tried)
        scale, least = np.where(error < least, tried, scale), np.minimum(error, least)
    stored = (codes_of(blocks, scale) + ZERO).astype(np.uint8).ravel()
    low, high = np.split(stored, 2)
    return low | high << 4, scale.ravel()


def scale_by(largest: np.ndarray, factor: float) -> np.ndarray:
    """float16 (blocks, 1): `factor` times the scale with which a block's largest value (blocks, 1) has the code -8."""
    scale = (largest * np.float32(-factor / ZERO)).astype(np.float16)
    scale[scale == 0] = 1
    return scale


def squared_errors(blocks: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """float32 (blocks, 1): the error of each block (blocks, size) when it is rounded with its scale."""
    return np.square(codes_of(blocks, scale) * scale.astype(np.float32) - blocks).sum(1, keepdims=True)


def codes_of(blocks: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """float32 (blocks, size), whole numbers from -8 to 7, for scale float16 (blocks, 1)."""
    return np.clip(np.rint(blocks / scale.astype(np.float32)), -ZERO, ZERO - 1)


def dequantize_blocks(packed: np.ndarray, scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """float32 of `shape`, exactly what the device computes from what `quantize_blocks` returns."""
    codes = np.concatenate([packed & 15, packed >> 4]).astype(np.float32) - ZERO
    return (codes.reshape(len(scale), -1) * scale.astype(np.float32)[:, None]).reshape(shape)
