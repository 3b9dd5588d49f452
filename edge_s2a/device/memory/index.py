"""Counts the memory of an index of images: a few bytes of each, but of millions."""

from dataclasses import dataclass

from edge_s2a.artifact.manifest import Manifest
from edge_s2a.device.data.dataset import DIGEST, Dataset

# Of an image: its path, place and label, as far as that is known before a folder is seen.
USUAL_BYTES = 48
ORDER_BYTES = 8  # its place in the order of an epoch


@dataclass(frozen=True)
class IndexMemory:
    """Bytes that are kept of images while they are read, however many there are."""

    now_bytes: int = 0  # in memory when the artifact is loaded
    later_bytes: int = 0

    @property
    def held_bytes(self) -> dict[str, int]:
        """The part of a plan; none without images."""
        size = self.now_bytes + self.later_bytes
        return {"image index": size} if size else {}


NO_INDEX = IndexMemory()


def index_memory(manifest: Manifest, *datasets: Dataset | None) -> IndexMemory:
    """What the images of these datasets take to be read in an order of their own."""
    parts = [dataset for dataset in datasets if dataset is not None]
    paths = {id(part.paths): part.paths.nbytes for part in parts if part.paths is not None}  # parts of one share them
    numbers_bytes = sum(part.labels.nbytes + part.places.nbytes for part in parts)
    return IndexMemory(sum(paths.values()) + numbers_bytes, sum(map(len, parts)) * _later_bytes(manifest))


def usual_index_memory(manifest: Manifest, images: int) -> IndexMemory:
    """The same of images that have not been seen yet."""
    return IndexMemory(0, images * (USUAL_BYTES + _later_bytes(manifest)))


def _later_bytes(manifest: Manifest) -> int:
    return ORDER_BYTES + (DIGEST.itemsize if manifest.features else 0)
