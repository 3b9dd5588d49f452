"""Reads single images of a dataset as the model takes them, and tells them apart by their content."""

import hashlib
import os
from pathlib import Path

import numpy as np
from PIL import Image

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.data.dataset import Dataset
from edge_s2a.device.data.decoding import NO_LIMIT, UnusableImage, read_image
from edge_s2a.device.data.preprocessing import augmented

BLOCK_BYTES = 1 << 16


def load_pixels(
    dataset: Dataset,
    index: int,
    preprocessing: Preprocessing,
    augment: str = "none",
    seed: tuple[int, ...] = (),
    decode_limit_bytes: int = NO_LIMIT,
) -> np.ndarray:
    """uint8 (height, width, 3): image `index`, augmented, resized and cropped for the model.

    augment, seed: see `preprocessing.augmented`. Raises UnusableImage.
    """
    stored = dataset.stored(index)
    if isinstance(stored, Path):
        image = read_image(stored, preprocessing, decode_limit_bytes)
    else:
        image = Image.fromarray(np.ascontiguousarray(stored))
    return augmented(image, preprocessing, augment, seed, index)


def image_digest(dataset: Dataset, index: int) -> bytes:
    """SHA-256 of the file of image `index`, or of its pixels. That of a file is remembered until the file changes.
    Raises UnusableImage."""
    stored = dataset.stored(index)
    if not isinstance(stored, Path):
        return hashlib.sha256(stored.data).digest()
    try:
        status = os.stat(stored)
        stamp = status.st_size, status.st_mtime_ns
        if index not in dataset.digests or dataset.digests[index][:2] != stamp:
            dataset.digests[index] = *stamp, file_digest(stored)
    except OSError as error:
        raise UnusableImage(f"cannot be read: {error}") from error
    return dataset.digests[index][2]


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.digest()
