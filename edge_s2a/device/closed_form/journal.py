"""Keeps the features of images that are being learned in a file, until the knowledge file is written.

An interruption or a power failure then costs no image that was read (after a power failure, those of the last seconds).
Records are only appended. One that was cut off, or that the disk changed, is as if it had never been written. The
layout is that of edge_s2a.artifact.learning_files.
"""

import hashlib
import json
import os
import tempfile
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from edge_s2a.artifact.files import NO_LOCK, writing
from edge_s2a.artifact.learned import DIGEST_BYTES
from edge_s2a.artifact.learning_files import JOURNAL_HEADER, JOURNAL_MAGIC, JOURNAL_PREFIX
from edge_s2a.artifact.rows import FileRows, Rows
from edge_s2a.codec.features import Layout
from edge_s2a.errors import UserError
from edge_s2a.system.files import open_shared, read_at, replace, write_at
from edge_s2a.system.locks import try_to_lock

CHECKED_BYTES = 1 << 20  # read at once when a file is opened
ASIDE = ".old"  # after the name of a file that is no journal of this


class Journal:
    """Rows of features by the digest of their image. One process has it open."""

    def __init__(self, path: Path | None, layout: Layout, identity: str = ""):
        """Opens the journal `path`, or one that ends with the process. identity: of what computes the features, such as
        Manifest.model_digest. A file that holds other features, or something else, is set aside; `problem` says so.

        Raises UserError if the file cannot be written, or if another process has it open.
        """
        self._path, self._row_bytes = path, layout.row_bytes
        text = json.dumps([identity, layout.format, list(layout.taps.items())])
        header = JOURNAL_HEADER.pack(JOURNAL_MAGIC, hashlib.sha256(text.encode()).digest(), layout.row_bytes)
        self._file, self.problem = (_temporary(), None) if path is None else _opened(path)
        if path is not None and os.fstat(self._file.fileno()).st_size and self._read(0, JOURNAL_HEADER.size) != header:
            aside = path.with_name(path.name + ASIDE)
            with writing(aside):
                replace(path, aside)
            self.problem = f"{path} holds no features of this artifact; it is now {aside.name}"
            self._file, _ = _opened(path)
        self._write(header, 0)
        self._numbers: dict[bytes, int] = {}
        self._count = 0
        self._find_records()

    def __len__(self) -> int:
        """Records, whether they are intact or not."""
        return self._count

    @property
    def rows(self) -> Rows:
        """uint8 (records, row_bytes): the rows that there are now. They can be read as long as they are in use."""
        where = "the file of features" if self._path is None else str(self._path)
        shape, stride = (self._count, self._row_bytes), JOURNAL_PREFIX.size + self._row_bytes
        return FileRows(self._file, where, JOURNAL_HEADER.size + JOURNAL_PREFIX.size, shape, np.dtype(np.uint8), stride)

    def find(self, digest: bytes) -> int | None:
        """The number of the image's record; None if there is none."""
        return self._numbers.get(digest)

    def append(self, digest: bytes, row: np.ndarray) -> None:
        """Keeps the row, uint8 (row_bytes,), of an image that is not there yet. Raises UserError if it cannot be
        written."""
        assert len(digest) == DIGEST_BYTES
        codes = row.tobytes()
        prefix = JOURNAL_PREFIX.pack(digest, zlib.crc32(codes, zlib.crc32(digest)))
        self._write(prefix + codes, self._offset(self._count))
        self._numbers[digest] = self._count
        self._count += 1

    def remove(self) -> None:
        """Takes the file away, once it is no longer needed; rows that are in use stay readable."""
        if self._path is not None:
            with writing(self._path):
                self._path.unlink(missing_ok=True)

    def _find_records(self) -> None:
        """Finds the records that a file has, and cuts off what is less than one at its end."""
        size = JOURNAL_PREFIX.size + self._row_bytes
        self._count = (os.fstat(self._file.fileno()).st_size - JOURNAL_HEADER.size) // size
        at_once = max(1, CHECKED_BYTES // size)
        for first in range(0, self._count, at_once):
            block = memoryview(self._read(self._offset(first), size * min(at_once, self._count - first)))
            for number in range(len(block) // size):
                record = block[number * size : (number + 1) * size]
                digest, checksum = JOURNAL_PREFIX.unpack_from(record)
                if zlib.crc32(record[JOURNAL_PREFIX.size :], zlib.crc32(digest)) == checksum:
                    self._numbers[digest] = first + number
        with writing(self._path or Path(tempfile.gettempdir())):
            os.ftruncate(self._file.fileno(), self._offset(self._count))

    def _offset(self, number: int) -> int:
        return JOURNAL_HEADER.size + number * (JOURNAL_PREFIX.size + self._row_bytes)

    def _read(self, offset: int, size: int) -> bytes:
        try:
            return read_at(self._file.fileno(), size, offset)
        except OSError as error:
            raise UserError(f"cannot read {self._path}: {error.strerror}; delete it") from error

    def _write(self, data: bytes, offset: int) -> None:
        with writing(self._path or Path(tempfile.gettempdir())):
            while data:
                count = write_at(self._file.fileno(), data, offset)
                data, offset = data[count:], offset + count


def _opened(path: Path) -> tuple[BinaryIO, str | None]:
    """(the file, what is to be known of its file system)."""
    with writing(path):
        file = open_shared(path, writes=True)
        is_held = try_to_lock(file)
    if is_held is False:
        raise UserError(f"another process is writing {path}; wait for it, or choose another --output")
    return file, None if is_held else NO_LOCK.format(path.parent)


def _temporary() -> BinaryIO:
    try:
        return cast(BinaryIO, tempfile.TemporaryFile(buffering=0))
    except OSError as error:
        raise UserError(
            f"cannot write a temporary file: {error.strerror}; free space, or set TMPDIR to a writable folder"
        ) from error
