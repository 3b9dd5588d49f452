"""Reads the header of a safetensors file with Python alone (artifact/tensors.py has the format)."""

import os
from typing import BinaryIO

from edge_s2a.system.files import read_at

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 16 << 20


def read_header(file: BinaryIO) -> tuple[bytes, int]:
    """Returns (text of the header, bytes of the file). Raises ValueError if the file has none, and OSError."""
    size = os.fstat(file.fileno()).st_size
    header_bytes = int.from_bytes(read_at(file.fileno(), LENGTH_BYTES, 0), "little")
    if size < LENGTH_BYTES or header_bytes > min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
        raise ValueError("header longer than the file")
    return read_at(file.fileno(), header_bytes, LENGTH_BYTES), size
