"""Frozen weights in less memory than they take: each is mapped from the file while a graph reads it, and let go after.

What is let go is the process's hold on the pages. They stay in the system's page cache as long as there is memory for
it, so reading them again mostly costs a page fault, and where memory is short a read of the file.
"""

import mmap

import numpy as np

# A page that is touched brings its neighbours, if they are cached: sixteen pages, or a huge page where the file system
# caches such.
WINDOW_BYTES = 2 << 20


def resident_bytes_of(arrays: list[np.ndarray], mapping: np.ndarray) -> int:
    """The most that becomes resident of `mapping`, uint8 (bytes,), when `arrays`, views of it, are read."""
    base = address(mapping)
    windows: set[int] = set()
    for array in arrays:
        first, last = address(array) // WINDOW_BYTES, (address(array) + array.nbytes - 1) // WINDOW_BYTES
        windows.update(range(first, last + 1))
    starts = (window * WINDOW_BYTES for window in windows)
    return sum(min(start + WINDOW_BYTES, base + len(mapping)) - max(start, base) for start in starts)


def let_go(mapping: np.ndarray) -> None:
    """Takes a mapped file out of this process's resident memory."""
    mapping.base.obj.madvise(mmap.MADV_DONTNEED)


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
