"""Keeps the features of images in a file, from one epoch and one run to the next.

Where only modules beside the backbone are trained, its features of an image never change (Manifest.features). Training
then reads features from 8-bit codes, even those that were just computed: what it learns does not depend on what the
file holds. The file only grows, up to its limit; features that do not fit are computed again in each epoch. (Replacing
old records would not help, because an epoch reads each image once.)

    header   magic, SHA-256 of what computes the features, bytes per record (uint64): HEADER_BYTES
    record   key (32 bytes), CRC-32 of the codes (uint32), codes
    codes    of each feature in turn: uint8 codes, float16 scales and minima of groups (edge_s2a.codec.reference)
"""

import hashlib
import json
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from edge_s2a.artifact.archive import ADAPTER, GOLDEN, PLAN
from edge_s2a.artifact.intensity import Intensity
from edge_s2a.artifact.manifest import Manifest
from edge_s2a.codec.reference import GROUP_SIZE, decode_groups, encode_groups
from edge_s2a.system.files import open_shared, read_at, write_at

MAGIC = b"edge-s2a features 1\n"
HEADER = struct.Struct("<20s32sQ")
HEADER_BYTES = HEADER.size
PREFIX = struct.Struct("<32sI")
BITS = 8
SCALES_BYTES = 4  # per group: scale and minimum
CHUNK = 1024 * GROUP_SIZE  # values coded at once; temporaries take several times as much
NOT_OF_FEATURES = (ADAPTER, GOLDEN, PLAN)


def identity_of(manifest: Manifest, intensity: Intensity | None) -> bytes:
    """SHA-256 of everything that decides the features of an image: graphs, frozen weights, preprocessing."""
    digests = {name: entry["sha256"] for name, entry in manifest.members.items() if name not in NOT_OF_FEATURES}
    text = json.dumps([digests, vars(manifest.preprocessing), intensity], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()


def key_of(image_digest: bytes, is_mirrored: bool) -> bytes:
    """The key of an image's features, 32 bytes."""
    return hashlib.sha256(image_digest + bytes([is_mirrored])).digest()


# -- codes ---------------------------------------------------------------------------------------------


def sizes_of(shapes: dict[str, list[int]]) -> list[int]:
    """Values per image of each feature, rounded up to whole groups."""
    return [-(-math.prod(shape) // GROUP_SIZE) * GROUP_SIZE for shape in shapes.values()]


def code_bytes(shapes: dict[str, list[int]]) -> int:
    """Bytes of one image's codes. shapes: of its features, Manifest.features."""
    return sum(size + SCALES_BYTES * size // GROUP_SIZE for size in sizes_of(shapes))


def encode(features: dict[str, np.ndarray], shapes: dict[str, list[int]]) -> bytes:
    """The codes of one image. features: float32 by name, of `shapes`."""
    parts = []
    for name in shapes:
        values = features[name].reshape(-1)
        for start in range(0, len(values), CHUNK):
            chunk = values[start : start + CHUNK]
            if len(chunk) % GROUP_SIZE:
                chunk = np.pad(chunk, (0, -len(chunk) % GROUP_SIZE))
            parts += [array.tobytes() for array in encode_groups(chunk.reshape(-1, GROUP_SIZE), BITS)]
    return b"".join(parts)


def decode(codes: bytes, features: dict[str, np.ndarray], index: int, shapes: dict[str, list[int]]) -> None:
    """Decodes `codes`, from `encode`, into image `index` of `features`: float32 by name, of `shapes` with the first
    axis `batch` times as long."""
    offset = 0
    for name, (first, *_) in shapes.items():
        values = features[name][index * first : (index + 1) * first].reshape(-1)
        for start in range(0, len(values), CHUNK):
            chunk = values[start : start + CHUNK]
            groups = -(-len(chunk) // GROUP_SIZE)
            packed = np.frombuffer(codes, np.uint8, groups * GROUP_SIZE, offset).reshape(groups, 1, GROUP_SIZE)
            scales = np.frombuffer(codes, np.float16, 2 * groups, offset + packed.nbytes).reshape(2, groups, 1, 1)
            offset += packed.nbytes + scales.nbytes
            scale, minimum = scales
            chunk[:] = decode_groups(packed, scale, minimum, BITS, GROUP_SIZE).reshape(-1)[: len(chunk)]


# -- the file ------------------------------------------------------------------------------------------


class FeatureCache:
    """Codes by key, in a file of at most `limit_bytes`. One process writes it; one of its threads may append while
    another looks up."""

    def __init__(self, path: Path, manifest: Manifest, limit_bytes: int, intensity: Intensity | None = None):
        """Opens the file, and empties it unless it was made for these features, of images of this intensity. Raises
        OSError."""
        self.shapes = manifest.features
        self._problem: str | None = None
        self._code_bytes = code_bytes(self.shapes)
        self._record_bytes = PREFIX.size + self._code_bytes
        header = HEADER.pack(MAGIC, identity_of(manifest, intensity), self._record_bytes)
        self._opened = open_shared(path, writes=True)
        self._file = self._opened.fileno()
        if read_at(self._file, HEADER_BYTES, 0) != header:
            os.ftruncate(self._file, 0)
            write_at(self._file, header, 0)
        # A record that a power failure cut off is overwritten; on a full disk even the header may be cut off.
        self.count = max(0, (os.fstat(self._file).st_size - HEADER_BYTES) // self._record_bytes)
        self.capacity = max(self.count, (limit_bytes - HEADER_BYTES) // self._record_bytes)
        self._keys = np.zeros(self.capacity, np.uint64)  # the first bytes of each
        for number in range(self.count):
            self._keys[number] = np.frombuffer(read_at(self._file, 8, self._offset(number)), np.uint64)[0]

    def find(self, key: bytes) -> bytes | None:
        """The codes under `key`; None if there are none, or none that are intact."""
        for number in np.flatnonzero(self._keys[: self.count] == np.frombuffer(key[:8], np.uint64)):
            try:
                record = read_at(self._file, self._record_bytes, self._offset(int(number)))
            except OSError:
                return None
            codes = record[PREFIX.size :]
            if len(codes) == self._code_bytes and record[: PREFIX.size] == PREFIX.pack(key, zlib.crc32(codes)):
                return codes
        return None

    def append(self, key: bytes, codes: bytes) -> None:
        """Keeps `codes` under `key`, unless the file is full or cannot be written."""
        if self.count == self.capacity or self.find(key) is not None:
            return
        record = PREFIX.pack(key, zlib.crc32(codes)) + codes
        try:
            written = write_at(self._file, record, self._offset(self.count))
        except OSError as error:
            written, self._problem = 0, error.strerror
        if written < len(record):
            self._problem = self._problem or "the disk is full"
            self.capacity = self.count
            return
        self._keys[self.count] = np.frombuffer(key[:8], np.uint64)[0]
        self.count += 1

    def take_problem(self) -> str | None:
        """The reason why the file stopped growing before it was full; None after it was asked for once."""
        problem, self._problem = self._problem, None
        return problem

    def _offset(self, number: int) -> int:
        return HEADER_BYTES + number * self._record_bytes
