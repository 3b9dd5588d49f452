"""Sizes in bytes as people write and read them."""

import re

from edge_s2a.errors import UserError

MIB = 1 << 20
UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9,
    "k": 1 << 10, "m": 1 << 20, "g": 1 << 30,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
}  # fmt: skip


def parse_size(text: str) -> int:
    """Bytes of "192MiB", "0.5GiB", "200MB" or a plain number. Raises UserError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in UNITS:
        raise UserError(f"{text!r} is not a size; write for example 192MiB, 0.5GiB or 200MB")
    return int(float(match[1]) * UNITS[match[2].lower()])


def format_size(size: int) -> str:
    """`size` bytes in MiB, for example "192.0 MiB"."""
    return f"{size / MIB:.1f} MiB"
