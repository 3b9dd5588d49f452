"""Keeps many paths in little memory, and walks folders in order without a list of what is in them."""

import heapq
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from edge_s2a.errors import UserError

END = b"\0"  # no path has one
NAMES_PER_RUN = 1 << 14


class Paths:
    """Paths by their places in one buffer."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def append(self, path: bytes) -> int:
        """Returns the place of what was appended."""
        place = len(self._buffer)
        self._buffer += path
        self._buffer += END
        return place

    def __getitem__(self, place: int) -> str:
        return os.fsdecode(bytes(self._buffer[place : self._buffer.index(END, place)]))

    @property
    def nbytes(self) -> int:
        return len(self._buffer)


def in_order(names: Iterable[bytes]) -> Iterator[bytes]:
    """Sorts names, which have no END, in some twice the memory that they take in one buffer: as objects of Python they
    would take five times as much."""
    source, runs = iter(names), []
    while part := sorted(itertools.islice(source, NAMES_PER_RUN)):
        runs.append(END.join(part))
    return heapq.merge(*map(split, runs))


def split(run: bytes) -> Iterator[bytes]:
    """Yields what is between the ENDs."""
    start = 0
    while (end := run.find(END, start)) >= 0:
        yield run[start:end]
        start = end + 1
    yield run[start:]


def entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yields what is in a folder, in no order. Raises UserError if it cannot be read."""
    try:
        with os.scandir(folder) as found:
            yield from found
    except OSError as error:
        raise UserError(
            f"cannot read folder {printable(folder)}: {error.strerror}; correct it, or remove it"
        ) from error


def files_below(folder: Path, suffixes: set[str], unused: Counter[str], above: tuple[str, ...] = ()) -> Iterator[bytes]:
    """Yields the paths, below a folder and in their order, of the files with one of `suffixes` in it and in all folders
    below. Hidden ones are left out; symbolic links count, but for one that leads back to a folder above. Counts other
    files in `unused` by their suffix."""
    real = os.path.realpath(folder)
    if real in above:
        return

    def names() -> Iterator[bytes]:
        for entry in entries(folder):
            if entry.name[0] == ".":
                continue
            if entry.is_dir():
                yield os.fsencode(entry.name) + b"/"
            elif entry.is_file():
                suffix = os.path.splitext(entry.name)[1].lower()
                if suffix in suffixes:
                    yield os.fsencode(entry.name)
                else:
                    unused[suffix] += 1

    for name in in_order(names()):
        if name.endswith(b"/"):
            below = folder / os.fsdecode(name[:-1])
            yield from (name + path for path in files_below(below, suffixes, unused, (*above, real)))
        else:
            yield name


def printable(path: Path | str) -> str:
    """The path as text that can be written anywhere: a file's name is bytes, and need not be UTF-8."""
    return os.fsencode(path).decode(errors="replace")
