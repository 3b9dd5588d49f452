"""Reads images that are to be learned once: an image that is known by its digest is not decoded again."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from edge_s2a.artifact.intensity import Intensity
from edge_s2a.artifact.learned import DIGEST_BYTES
from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.data.dataset import Dataset
from edge_s2a.device.data.loader import stream
from edge_s2a.device.data.pixels import image_digest, load_pixels


class Read(NamedTuple):
    """An image and its class."""

    digest: bytes  # DIGEST_BYTES of the SHA-256 of its file, or of its pixels
    label: str
    pixels: np.ndarray | None  # uint8 (height, width, 3) as the model takes them; None where its features are known


def read_once(
    dataset: Dataset,
    preprocessing: Preprocessing,
    is_known: Callable[[bytes], bool],
    capacity: int,
    decode_limit_bytes: int,
    intensity: Intensity | None = None,
) -> Iterator[Read]:
    """Yields all images of a dataset that can be read, in its order, read in a thread of their own; at most `capacity`
    wait."""

    def load(index: int) -> tuple[bytes, np.ndarray | None]:
        digest = image_digest(dataset, index)[:DIGEST_BYTES]
        if is_known(digest):
            return digest, None
        return digest, load_pixels(
            dataset, index, preprocessing, decode_limit_bytes=decode_limit_bytes, intensity=intensity
        )

    for _, index, (digest, pixels) in stream(dataset, range(len(dataset)), load, capacity):
        yield Read(digest, dataset.classes[dataset.labels[index]], pixels)
