"""Arrays of rows that are read when they are needed: from a file, or gathered from other arrays.

Whatever reads rows slices them, `rows[start:stop]`, and gets a numpy array of its own; so an array in memory will do
as well. Of a file nothing stays in memory between two slices.
"""

import math
from collections.abc import Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np

from edge_s2a.errors import UserError
from edge_s2a.system import files


class Rows(Protocol):
    """An array that can be sliced along its first axis."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


class FileRows:
    """Rows in an open file, which stays open as long as they are in use; its name may go to another file."""

    def __init__(
        self, file: BinaryIO, where: str, offset: int, shape: tuple[int, ...], dtype: np.dtype, stride: int = 0
    ):
        """stride: bytes from a row to the next one, if there is something between them."""
        self.shape, self.dtype = shape, dtype
        self._file, self._where, self._offset = file, where, offset
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self._stride = stride or self._row_bytes

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Raises UserError if the file no longer has them."""
        start, stop, step = rows.indices(len(self))
        assert step == 1, "rows are read as they lie"
        count = max(0, stop - start)
        buffer = np.empty((count, self._stride), np.uint8)
        size = max(0, buffer.nbytes - (self._stride - self._row_bytes))
        read_into(self._file, self._where, self._offset + start * self._stride, buffer.reshape(-1)[:size])
        if self._stride != self._row_bytes:
            buffer = np.ascontiguousarray(buffer[:, : self._row_bytes])
        return buffer.reshape(-1).view(self.dtype).reshape(count, *self.shape[1:])


class PickedRows:
    """Chosen rows of several arrays, in any order."""

    def __init__(self, parts: Sequence[Rows], picked: np.ndarray):
        """picked: int (rows,), numbers of rows of all `parts` together, one after the other."""
        self.parts, self.picked = parts, picked
        self.shape = (len(picked), *parts[0].shape[1:])
        self.dtype = parts[0].dtype
        self._starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        picked = self.picked[rows]
        result = np.empty((len(picked), *self.shape[1:]), self.dtype)
        numbers = np.searchsorted(self._starts, picked, side="right") - 1
        # Neighbours that follow each other in the same part are read at once.
        ends = np.flatnonzero((np.diff(picked) != 1) | (np.diff(numbers) != 0)) + 1
        for first, last in zip([0, *ends], [*ends, len(picked)], strict=True):
            if first < last:
                number = int(numbers[first])
                start = int(picked[first] - self._starts[number])
                result[first:last] = self.parts[number][start : start + int(last - first)]
        return result


def pick(parts: Sequence[Rows], picked: np.ndarray) -> Rows:
    """Rows `picked`, int (rows,), of all `parts` together; rows that were picked from others come straight from these,
    so that what has been picked again and again is read no slower."""
    sources: list[Rows] = []
    numbers = []
    for part in parts:
        inner, chosen = (part.parts, part.picked) if isinstance(part, PickedRows) else ([part], np.arange(len(part)))
        before = sum(map(len, sources))
        sources += inner
        numbers.append(before + chosen)
    return PickedRows(sources, np.concatenate(numbers)[picked])


def read_into(file: BinaryIO, where: str, offset: int, buffer: np.ndarray) -> None:
    """Fills `buffer`, uint8 (bytes,), from `offset` of a file. Raises UserError naming `where` if it cannot."""
    view = buffer.data
    while len(view):
        try:
            count = files.read_into(file.fileno(), view, offset)
        except OSError as error:
            raise UserError(f"cannot read {where}: {error.strerror}; check the disk") from error
        if count == 0:
            raise UserError(f"{where} has become shorter while it was read; use another copy")
        view, offset = view[count:], offset + count
