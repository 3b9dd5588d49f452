"""Reads single images of a dataset as the model takes them, and tells them apart by their content."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_s2a.artifact.intensity import Intensity
from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.data.dataset import Dataset
from edge_s2a.device.data.decoding import NO_LIMIT, UnusableImage, deep_range, image_of, read_image
from edge_s2a.device.data.intensity import Range, some_of
from edge_s2a.device.data.preprocessing import augmented

BLOCK_BYTES = 1 << 16


def load_pixels(
    dataset: Dataset,
    index: int,
    preprocessing: Preprocessing,
    augment: str = "none",
    seed: tuple[int, ...] = (),
    decode_limit_bytes: int = NO_LIMIT,
    intensity: Intensity | None = None,
) -> np.ndarray:
    """uint8 (height, width, 3): image `index`, augmented, resized and cropped for the model.

    augment, seed: see `preprocessing.augmented`. intensity: see `decoding.read_image`. Raises UnusableImage.
    """
    stored = stored_image(dataset, index)
    if isinstance(stored, Path):
        image = read_image(stored, preprocessing, decode_limit_bytes, augment, intensity)
    else:
        image = image_of(stored, preprocessing, decode_limit_bytes, augment)
    return augmented(image, preprocessing, augment, seed, index)


def ranges_in(dataset: Dataset, limit_bytes: int) -> Iterator[Range]:
    """Yields which values some images of a dataset have, where these are of more than 8 bits. Of such that take more
    than `limit_bytes` to decode nothing is known."""
    for index in some_of(len(dataset)):
        stored = dataset.stored(index) if dataset.paths is not None else None
        if isinstance(stored, Path) and (found := deep_range(stored, limit_bytes)) is not None:
            yield found


def image_digest(dataset: Dataset, index: int) -> bytes:
    """SHA-256 of the file of image `index`, or of its pixels. Raises UnusableImage."""
    stored = stored_image(dataset, index)
    if not isinstance(stored, Path):
        return hashlib.sha256(stored.data).digest()
    try:
        return file_digest(stored) if dataset.digests is None else remembered_digest(dataset.digests[index], stored)
    except OSError as error:
        raise UnusableImage(f"cannot be read: {error}") from error


def stored_image(dataset: Dataset, index: int) -> Path | np.ndarray:
    """As `Dataset.stored`. Raises UnusableImage."""
    try:
        return dataset.stored(index)
    except OSError as error:
        raise UnusableImage(f"cannot be read: {error}") from error


def remembered_digest(known: np.void, path: Path) -> bytes:
    """SHA-256 of a file, from `known`, a row of `Dataset.digests`, unless it has changed since. Raises OSError."""
    status = os.stat(path)
    if (known["bytes"], known["time_ns"]) != (status.st_size, status.st_mtime_ns):
        known["sha256"] = np.frombuffer(file_digest(path), np.uint8)
        known["bytes"], known["time_ns"] = status.st_size, status.st_mtime_ns
    return known["sha256"].tobytes()


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.digest()
