"""Turns images into the inputs of a micro-batch: normalised pixels, or features that are kept from epoch to epoch."""

from typing import NamedTuple

import numpy as np

from edge_s2a.artifact.intensity import Intensity
from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.data.dataset import Dataset
from edge_s2a.device.data.feature_cache import FeatureCache, decode, encode, key_of
from edge_s2a.device.data.pixels import image_digest, load_pixels
from edge_s2a.device.data.preprocessing import is_mirrored, normalize
from edge_s2a.device.engine.base import Engine, Inputs, part_of


class Known(NamedTuple):
    """An image whose features are kept already."""

    codes: bytes


class Unknown(NamedTuple):
    """An image whose features will be kept."""

    key: bytes
    pixels: np.ndarray  # uint8 (height, width, 3)


Prepared = np.ndarray | Known | Unknown
"""An image that waits for its micro-batch; uint8 (height, width, 3) where no features are kept."""


class Collator:
    """Collects images in `batch`, float32 (micro-batch, 3, height, width), or their features beside it."""

    def __init__(self, engine: Engine, batch: np.ndarray, preprocessing: Preprocessing, decode_limit_bytes: int):
        self.engine, self.batch, self.preprocessing = engine, batch, preprocessing
        self.decode_limit_bytes = decode_limit_bytes
        self.intensity: Intensity | None = None
        """What is black and white in images of more than 8 bits; None where nothing tells."""
        self.cache: FeatureCache | None = None
        self._features: dict[str, np.ndarray] = {}
        self._count = 0
        self._missing: list[tuple[int, bytes]] = []  # place and key of those in `batch`, whose features are not known

    def keep_features(self, cache: FeatureCache) -> None:
        """From now on collects features; those that `cache` holds are not computed again."""
        self.cache = cache
        count = len(self.batch)
        self._features = {
            name: np.zeros((count * first, *others), np.float32)
            for name, (first, *others) in self.engine.feature_shapes.items()
        }

    def load(self, dataset: Dataset, index: int, augment: str = "none", seed: tuple[int, ...] = ()) -> Prepared:
        """Reads and augments image `index`; see `pixels.load_pixels`. May run in a thread of its own."""
        key = None
        if self.cache is not None:
            key = key_of(image_digest(dataset, index), is_mirrored(augment, seed, index))
            codes = self.cache.find(key)
            if codes is not None:
                return Known(codes)
        pixels = load_pixels(dataset, index, self.preprocessing, augment, seed, self.decode_limit_bytes, self.intensity)
        return pixels if key is None else Unknown(key, pixels)

    def add(self, prepared: Prepared) -> None:
        """Makes it the next image of the micro-batch."""
        if isinstance(prepared, Known):
            decode(prepared.codes, self._features, self._count, self.engine.feature_shapes)
        elif isinstance(prepared, Unknown):
            normalize(prepared.pixels, self.preprocessing, self.batch[len(self._missing)])
            self._missing.append((self._count, prepared.key))
        else:
            normalize(prepared, self.preprocessing, self.batch[self._count])
        self._count += 1

    def inputs(self) -> Inputs:
        """The images that were added since the last call; valid until the next one is added."""
        count, self._count = self._count, 0
        if self.cache is None:
            return self.batch[:count]
        shapes = self.engine.feature_shapes
        for row, (place, key) in enumerate(self._missing):
            # One at a time: the batch size matters to the engine's rounding, and what is kept of an image must not
            # depend on how many beside it are missing.
            codes = encode(self.engine.features(self.batch[row : row + 1]), shapes)
            self.cache.append(key, codes)
            decode(codes, self._features, place, shapes)
        self._missing.clear()
        return part_of(self._features, 0, count, shapes)
