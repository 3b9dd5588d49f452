"""Says which values of images of more than 8 bits are black and white, as adapters remember it."""

import math
from typing import NamedTuple

from edge_s2a.errors import UserError

AUTO = "auto"
INTENSITY = "intensity"  # in the metadata of adapters and knowledge files


class Intensity(NamedTuple):
    """The values that become black and white; between them in proportion, beyond them black or white."""

    black: float
    white: float

    def __str__(self) -> str:
        return f"{self.black:.9g}:{self.white:.9g}"


def parse_intensity(text: str | None) -> Intensity | None:
    """`LOW:HIGH`; None for None and "auto". Raises UserError for anything else."""
    if text is None or text == AUTO:
        return None
    try:
        black, white = map(float, text.split(":"))
        if math.isfinite(white - black) and black < white:
            return Intensity(black, white)
    except (ValueError, AttributeError):
        pass
    raise UserError(f"intensity {text!r} is not LOW:HIGH; give the values that are black and white, such as 0:4095")


def intensity(text: str) -> str:
    """The text of an option in one spelling. Raises UserError."""
    return str(parse_intensity(text) or AUTO)
