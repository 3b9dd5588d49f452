"""Codes of the pooled features of an image, as they are kept: one row of bytes per image.

    float16   every feature as little-endian float16
    int8      of each group of features (minimum, step) as little-endian float32, then every feature as a uint8 code
              that stands for minimum + step * code

What is learned from an image is what its row decodes to, from the first moment on: the result is the same whether an
image is kept or folded into sums, was read a moment ago or a year. A row depends on its image alone.
"""

from dataclasses import dataclass

import numpy as np

from edge_s2a.codec.reference import LARGEST_HALF

FORMATS = ("float16", "int8")
RANGE_BYTES = 8  # of a group: minimum and step
LEVELS = 255
# The largest difference of two values within float16's range, in steps; rounded up to a float32.
LARGEST_STEP = np.nextafter(np.float32(2 * LARGEST_HALF / LEVELS), np.float32(np.inf))
HALF_EXPONENT = 0x7C00  # its bits are all set in infinities and NaNs alone


@dataclass(frozen=True)
class Layout:
    """What a row of codes holds."""

    format: str  # of FORMATS
    taps: dict[str, int]  # group of features -> their number, in the order of the features

    @property
    def width(self) -> int:
        """Features of an image."""
        return sum(self.taps.values())

    @property
    def row_bytes(self) -> int:
        if self.format == "float16":
            return 2 * self.width
        return RANGE_BYTES * len(self.taps) + self.width

    def first_column(self, groups: int) -> int:
        """The first feature of the last `groups` groups."""
        return self.width - sum(list(self.taps.values())[len(self.taps) - groups :])


def encode(features: np.ndarray, layout: Layout) -> np.ndarray:
    """The rows of images, uint8 (images, row_bytes), of their features float32 (images, width).

    Values beyond float16's range become its largest ones, in either format. Raises ValueError for features that are
    not finite: such an image cannot be learned.
    """
    if not np.isfinite(features).all():
        raise ValueError("features that are not finite")
    values = np.clip(features, np.float32(-LARGEST_HALF), np.float32(LARGEST_HALF))
    if layout.format == "float16":
        return values.astype("<f2").view(np.uint8)
    ranges = np.empty((len(values), len(layout.taps), 2), "<f4")
    codes = np.empty(values.shape, np.uint8)
    start = 0
    for number, width in enumerate(layout.taps.values()):
        group = values[:, start : start + width]
        minimum = group.min(1)
        step = (group.max(1) - minimum) / np.float32(LEVELS)
        ranges[:, number, 0], ranges[:, number, 1] = minimum, step
        divisor = np.where(step > 0, step, np.float32(1))[:, None]
        codes[:, start : start + width] = np.minimum(np.rint((group - minimum[:, None]) / divisor), LEVELS)
        start += width
    return np.concatenate([ranges.reshape(len(values), -1).view(np.uint8), codes], 1)


def decode(rows: np.ndarray, layout: Layout, groups: int | None = None) -> np.ndarray:
    """Features float32 (images, columns) of rows uint8 (images, row_bytes): those of the last `groups` groups, or of
    all."""
    count = len(layout.taps) if groups is None else groups
    start = layout.first_column(count)
    if layout.format == "float16":
        return np.ascontiguousarray(rows[:, 2 * start :]).view("<f2").astype(np.float32)
    features = rows[:, RANGE_BYTES * len(layout.taps) + start :].astype(np.float32)
    ranges = _ranges(rows, layout)
    left = 0
    for number, width in list(enumerate(layout.taps.values()))[len(layout.taps) - count :]:
        group = features[:, left : left + width]
        group *= ranges[:, number, 1:]
        group += ranges[:, number, :1]
        left += width
    return features


def is_valid(rows: np.ndarray, layout: Layout) -> bool:
    """Whether rows uint8 (images, row_bytes) decode to finite features that `encode` could have met."""
    if layout.format == "float16":
        halves = np.ascontiguousarray(rows).view("<u2")
        return not ((halves & HALF_EXPONENT) == HALF_EXPONENT).any()
    minimum, step = np.moveaxis(_ranges(rows, layout), -1, 0)
    return bool(((np.abs(minimum) <= LARGEST_HALF) & (step >= 0) & (step <= LARGEST_STEP)).all())


def _ranges(rows: np.ndarray, layout: Layout) -> np.ndarray:
    """float32 (images, groups, 2) of rows in the format int8."""
    count = len(layout.taps)
    return np.ascontiguousarray(rows[:, : RANGE_BYTES * count]).view("<f4").reshape(len(rows), count, 2)
