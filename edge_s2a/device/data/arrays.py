"""Reads the images of a .npz file one at a time."""

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_s2a.errors import UserError


@dataclass(frozen=True)
class StoredArrays:
    """Images of equal size in an uncompressed member of a .npz file. They are read, not mapped: pages of a mapped file
    count as memory of this process once they were touched."""

    path: Path
    offset: int  # of the first, in the file
    shape: tuple[int, ...]  # (images, height, width, 3)

    def __getitem__(self, number: int) -> np.ndarray:
        """uint8 (height, width, 3). Raises OSError if it cannot be read."""
        pixels = np.empty(self.shape[1:], np.uint8)
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset + number * pixels.nbytes)
            if file.readinto(pixels) != pixels.nbytes:  # type: ignore[arg-type]
                raise OSError(f"{self.path} ends too early")
        return pixels


def open_arrays(path: Path) -> tuple[StoredArrays, np.ndarray]:
    """The arrays `images` and `labels`, any numbers (images,). Raises UserError for anything else."""
    try:
        images, dtype = _find_member(path, "images")
        with np.load(path, allow_pickle=False) as archive:
            labels = archive["labels"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"cannot read {path}: {error}; write it with numpy.savez(file, images=..., labels=...)"
        ) from error
    if dtype != np.uint8 or len(images.shape) != 4 or images.shape[3] != 3 or labels.shape != images.shape[:1]:
        raise UserError(
            f"{path} holds images {dtype} {images.shape} and labels {labels.shape}; "
            "expected uint8 (images, height, width, 3) and integers (images,)"
        )
    return images, labels


def _find_member(path: Path, name: str) -> tuple[StoredArrays, np.dtype]:
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{name}.npy")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError("the arrays are compressed")
        with archive.open(entry) as member:
            version = np.lib.format.read_magic(member)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran_order, dtype = read_header(member)
            header_bytes = member.tell()
    if fortran_order or dtype.hasobject:
        raise ValueError(f"array {name} has an unsupported layout")
    if header_bytes + math.prod(shape) * dtype.itemsize > entry.file_size:
        raise ValueError(f"array {name} ends too early")
    with open(path, "rb") as file:
        file.seek(entry.header_offset + 26)
        name_bytes, extra_bytes = np.frombuffer(file.read(4), "<u2").tolist()
    return StoredArrays(path, entry.header_offset + 30 + name_bytes + extra_bytes + header_bytes, shape), dtype
