"""Reads and writes safetensors with numpy alone (https://github.com/huggingface/safetensors, "Format").

A buffer is: u64 little-endian length of the header, the header (JSON: name -> dtype, shape, data_offsets;
"__metadata__" -> strings), then the tensors, contiguous and without holes.
"""

import hashlib
import io
import json
import math
from typing import BinaryIO

import numpy as np

from edge_s2a.artifact.json_text import parse_json
from edge_s2a.errors import UserError

DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 16 << 20


def write(file: BinaryIO, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Writes the safetensors buffer of `tensors`, wider elements first, so that each lies aligned."""
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, array in ordered:
        header[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    file.write(len(text).to_bytes(LENGTH_BYTES, "little"))
    file.write(text)
    for _, array in ordered:
        file.write(np.ascontiguousarray(array).data)


def write_with_digest(file: BinaryIO, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """The same, with `digest` as metadata entry "sha256"."""
    write(file, tensors, metadata | {"sha256": digest(tensors, metadata)})


def digest(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    """SHA-256 of names, types, shapes and values, in the order of the names, and of the metadata."""
    total = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, array in sorted(tensors.items()):
        total.update(f"\n{name} {array.dtype.name} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


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


def has_its_digest(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bool:
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
    header = parse_json(data[LENGTH_BYTES:start].tobytes())
    metadata = header.pop("__metadata__", {})
    if not all(isinstance(item, str) for item in (*metadata, *metadata.values())):
        raise ValueError("metadata that is not text")
    tensors = {}
    expected = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape = DTYPES[entry["dtype"]], entry["shape"]
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ValueError(f"shape {shape} of {name}")
        begin, end = entry["data_offsets"]
        if begin != expected or end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"wrong extent of {name}")
        tensors[name] = data[start + begin : start + end].view(dtype).reshape(shape)
        expected = end
    if start + expected != len(data):
        raise ValueError("bytes missing or left over at the end")
    return tensors, metadata
