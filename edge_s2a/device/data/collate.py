"""From images to the inputs of a micro-batch: normalised pixels, or features that are kept from epoch to epoch."""

from typing import NamedTuple

import numpy as np

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.data.dataset import Dataset, image_digest, is_mirrored, load_pixels, normalize
from edge_s2a.device.data.feature_cache import FeatureCache, decode, encode, key_of
from edge_s2a.device.engine.base import Engine, Inputs, part_of


class Keyed(NamedTuple):
    """An image whose features are kept: its codes, if they are known, or its pixels."""

    key: bytes
    codes: bytes | None
    pixels: np.ndarray | None


Prepared = np.ndarray | Keyed  # uint8 (height, width, 3) where no features are kept


class Collator:
    """Collects images in `batch`, float32 (micro-batch, 3, height, width), or their features beside it."""

    def __init__(self, engine: Engine, batch: np.ndarray, preprocessing: Preprocessing, decode_limit_bytes: int):
        self.engine, self.batch, self.preprocessing = engine, batch, preprocessing
        self.decode_limit_bytes = decode_limit_bytes
        self.cache: FeatureCache | None = None
        self._count = 0
        self._missing: list[tuple[int, bytes]] = []  # place and key of those in `batch`, whose features are not known

    def keep_features(self, cache: FeatureCache) -> None:
        """From now on collects features, known ones from `cache`."""
        self.cache = cache
        count = len(self.batch)
        self._features = {
            name: np.zeros((count * first, *others), np.float32) for name, (first, *others) in cache.shapes.items()
        }

    def load(self, dataset: Dataset, index: int, augment: str = "none", seed: tuple[int, ...] = ()) -> Prepared:
        """Image `index`, read and augmented; see `data.load_pixels`. May run in a thread of its own."""
        key = None
        if self.cache is not None:
            key = key_of(image_digest(dataset, index), is_mirrored(augment, seed, index))
            codes = self.cache.find(key)
            if codes is not None:
                return Keyed(key, codes, None)
        pixels = load_pixels(dataset, index, self.preprocessing, augment, seed, self.decode_limit_bytes)
        return pixels if key is None else Keyed(key, None, pixels)

    def add(self, prepared: Prepared) -> None:
        """As the next image of the micro-batch."""
        if not isinstance(prepared, Keyed):
            normalize(prepared, self.preprocessing, self.batch[self._count])
        elif prepared.codes is not None:
            decode(prepared.codes, self._features, self._count, self.cache.shapes)
        else:
            normalize(prepared.pixels, self.preprocessing, self.batch[len(self._missing)])
            self._missing.append((self._count, prepared.key))
        self._count += 1

    def inputs(self) -> Inputs:
        """Of the images that were added since the last call; valid until the next one is."""
        count, self._count = self._count, 0
        if self.cache is None:
            return self.batch[:count]
        for row, (place, key) in enumerate(self._missing):
            # One at a time: their number matters to the engine's rounding, and what is kept of an image must not depend
            # on how many beside it are missing.
            codes = encode(self.engine.features(self.batch[row : row + 1]), self.cache.shapes)
            self.cache.append(key, codes)
            decode(codes, self._features, place, self.cache.shapes)
        self._missing.clear()
        return part_of(self._features, 0, count, self.cache.shapes)
