"""Reads and writes safetensors with numpy alone (https://github.com/huggingface/safetensors, "Format").

A buffer is: u64 little-endian length of the header, the header (JSON: name -> dtype, shape, data_offsets;
"__metadata__" -> strings), then the tensors, contiguous and without holes.
"""

import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

import numpy as np

from edge_s2a.artifact.json_text import parse_json
from edge_s2a.artifact.rows import FileRows, Rows
from edge_s2a.errors import UserError

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 16 << 20
BLOCK_BYTES = 1 << 20  # of rows that are not in memory


class Entry(NamedTuple):
    """A tensor of a header."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int  # bytes from the end of the header
    end: int


def write(file: BinaryIO, tensors: Mapping[str, Rows], metadata: dict[str, str] | None = None) -> None:
    """Writes the safetensors buffer of `tensors`, wider elements first, so that each lies aligned. Those that are not
    in memory are read some rows at a time."""
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, array in ordered:
        size = math.prod(array.shape) * array.dtype.itemsize
        header[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    file.write(len(text).to_bytes(LENGTH_BYTES, "little"))
    file.write(text)
    for _, array in ordered:
        for block in blocks(array):
            file.write(block.data)


def write_with_digest(file: BinaryIO, tensors: Mapping[str, Rows], metadata: dict[str, str]) -> None:
    """The same, with `digest` as metadata entry "sha256"."""
    write(file, tensors, metadata | {"sha256": digest(tensors, metadata)})


def digest(tensors: Mapping[str, Rows], metadata: dict[str, str]) -> str:
    """SHA-256 of names, types, shapes and values, in the order of the names, and of the metadata."""
    total = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, array in sorted(tensors.items()):
        total.update(f"\n{name} {array.dtype.name} {array.shape}\n".encode())
        for block in blocks(array):
            total.update(block.data)
    return total.hexdigest()


def blocks(array: Rows) -> Iterator[np.ndarray]:
    """Yields the array whole if it is in memory, otherwise some rows at a time."""
    if isinstance(array, np.ndarray):
        yield np.ascontiguousarray(array)
        return
    rows = max(1, BLOCK_BYTES // max(1, math.prod(array.shape[1:]) * array.dtype.itemsize))
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def encode(tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """The buffer that `write` writes."""
    file = io.BytesIO()
    write(file, tensors, metadata)
    return file.getvalue()


def decode(buffer: np.ndarray | bytes, where: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(tensors, metadata) of a safetensors buffer. The tensors are views of it: nothing is copied.

    `where` names the buffer in errors. Raises UserError unless header, shapes and bytes agree.
    """
    data = np.frombuffer(buffer, np.uint8)
    try:
        return _decode(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where} is not a valid safetensors file ({error}); make it or copy it again") from error


def open_rows(file: BinaryIO, where: str) -> tuple[dict[str, FileRows], dict[str, str]]:
    """(tensors, metadata) of an open safetensors file. The tensors are read from it when they are needed.

    `where` names the file in errors. Raises UserError unless header and size of the file agree, and each tensor has an
    axis.
    """
    try:
        size = os.fstat(file.fileno()).st_size
        header_bytes = int.from_bytes(os.pread(file.fileno(), LENGTH_BYTES, 0), "little")
        if size < LENGTH_BYTES or header_bytes > min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
            raise ValueError("header longer than the file")
        start = LENGTH_BYTES + header_bytes
        entries, metadata = _entries(os.pread(file.fileno(), header_bytes, LENGTH_BYTES), size - start)
        if not all(entry.shape for entry in entries.values()):
            raise ValueError("a tensor without axes")
    except OSError as error:
        raise UserError(f"cannot read {where}: {error.strerror}; check the path") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where} is not a valid safetensors file ({error}); make it or copy it again") from error
    tensors = {
        name: FileRows(file, where, start + entry.begin, entry.shape, entry.dtype) for name, entry in entries.items()
    }
    return tensors, metadata


def has_its_digest(tensors: Mapping[str, Rows], metadata: dict[str, str]) -> bool:
    """Whether a decoded buffer is what write_with_digest wrote."""
    apart = {key: value for key, value in metadata.items() if key != "sha256"}
    return metadata.get("sha256") == digest(tensors, apart)


def _decode(data: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if len(data) < LENGTH_BYTES:
        raise ValueError("shorter than its header")
    header_bytes = int.from_bytes(data[:LENGTH_BYTES].tobytes(), "little")
    if header_bytes > min(MAX_HEADER_BYTES, len(data) - LENGTH_BYTES):
        raise ValueError("header longer than the file")
    start = LENGTH_BYTES + header_bytes
    entries, metadata = _entries(data[LENGTH_BYTES:start].tobytes(), len(data) - start)
    tensors = {
        name: data[start + entry.begin : start + entry.end].view(entry.dtype).reshape(entry.shape)
        for name, entry in entries.items()
    }
    return tensors, metadata


def _entries(text: bytes, size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """(tensors, metadata) of a header, for tensors of `size` bytes together. Raises ValueError, KeyError, TypeError or
    AttributeError if it is not well formed."""
    header = parse_json(text)
    metadata = header.pop("__metadata__", {})
    if not all(isinstance(item, str) for item in (*metadata, *metadata.values())):
        raise ValueError("metadata that is not text")
    entries = {}
    expected = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape = DTYPES[entry["dtype"]], entry["shape"]
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ValueError(f"shape {shape} of {name}")
        begin, end = entry["data_offsets"]
        if type(begin) is not int or begin != expected or end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"wrong extent of {name}")
        entries[name] = Entry(dtype, tuple(shape), begin, end)
        expected = end
    if expected != size:
        raise ValueError("bytes missing or left over at the end")
    return entries, metadata
