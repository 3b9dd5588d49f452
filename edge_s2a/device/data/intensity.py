"""Brings images of more than 8 bits to 8, by one rule for a whole data set.

A container of 16 bits does not say how many of them a camera uses: 10, 12 or 14 are common, and read as 16 they are
black. Signed and floating-point values, as of medical images, have no range of their own at all.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile

from edge_s2a.artifact.intensity import Intensity

GREY = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")  # modes of Pillow with more than 8 bits
USUAL_BITS = (8, 10, 12, 14, 16)  # of sensors
DARK_BITS = 12  # an image of 16 bits that uses no more than these is all but black
SEEN = 64  # images that a rule is made from
ROWS = 64  # that are scaled at once
# Pillow keeps the upper byte of a colour of 16 bits. Read in the other order, it keeps the lower one.
OTHER_ORDER = {
    f"{bands};16{order}": f"{bands};16{other}" for bands in ("RGB", "RGBA", "RGBX") for order, other in ("BL", "LB")
}


class UnusableValues(Exception):
    """Values whose range is not known."""


WHOLE = Intensity(0, 0xFFFF)


class Range(NamedTuple):
    """What values an image has."""

    least: float
    most: float
    is_float: bool

    @property
    def is_of_a_sensor(self) -> bool:
        """Whether a number of bits describes them."""
        return not self.is_float and 0 <= self.least <= self.most <= WHOLE.white


def is_deep(image: Image.Image) -> bool:
    """Whether an image has more than 8 bits, as far as is known before it is loaded."""
    return image.mode in GREY or is_deep_colour(image)


def is_deep_colour(image: Image.Image) -> bool:
    return ";16" in raw_mode(image) and image.mode not in GREY


def raw_mode(image: Image.Image) -> str:
    """How the pixels of an image lie in its file; "" for one that is loaded."""
    if not (isinstance(image, ImageFile.ImageFile) and image.tile):
        return ""
    how = image.tile[0].args
    return str(how if isinstance(how, str) or not how else how[0])


def range_of(values: np.ndarray) -> Range:
    """Of any numbers, at least one."""
    return Range(float(values.min()), float(values.max()), values.dtype.kind == "f")


def rule_for(found: Range, intensity: Intensity | None) -> Intensity:
    """`intensity`, or where there is none the whole range of 16 bits, unless an image uses far less. Raises
    UnusableValues where that does not tell what is white."""
    if not np.isfinite((found.least, found.most)).all():
        raise UnusableValues("has values that are not finite numbers")
    if intensity is not None:
        return intensity
    if not found.is_of_a_sensor:
        raise UnusableValues(
            f"has values from {found.least:g} to {found.most:g}; give --intensity LOW:HIGH, such as "
            f"{found.least:g}:{found.most:g}, the values that are black and white"
        )
    if 0xFF < found.most < 1 << DARK_BITS:
        raise UnusableValues(
            f"uses {int(found.most).bit_length()} of its 16 bits, and would be black; give --intensity "
            f"0:{white_of(found.most):g}, the values that are black and white"
        )
    return WHOLE


def scaled(values: np.ndarray, intensity: Intensity) -> np.ndarray:
    """uint8 of the shape of `values`, any numbers (height, width, ...)."""
    found = np.empty(values.shape, np.uint8)
    scale = np.float32(255 / (intensity.white - intensity.black))
    for start in range(0, len(values), ROWS):
        part = (values[start : start + ROWS].astype(np.float32) - np.float32(intensity.black)) * scale
        found[start : start + ROWS] = np.clip(np.rint(part), 0, 255)
    return found


def white_of(most: float) -> float:
    """The largest value of a sensor whose largest seen is `most`."""
    used = int(most).bit_length()
    return float((1 << next(bits for bits in USUAL_BITS if bits >= used)) - 1)


def bits_used(ranges: Iterable[Range]) -> Intensity | None:
    """The rule for images of which these are some; None where only the user knows it, or where there are none."""
    found = list(ranges)
    if not found or not all(part.is_of_a_sensor for part in found):
        return None
    return Intensity(0, white_of(max(part.most for part in found)))


def some_of(count: int) -> list[int]:
    """Places of at most SEEN of `count` images, evenly spread."""
    return sorted({place * count // SEEN for place in range(SEEN)}) if count else []
