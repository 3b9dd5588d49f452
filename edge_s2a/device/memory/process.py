"""The memory of this process: how much is resident, and an allocator that behaves the same on every run."""

import ctypes

from edge_s2a.system import IS_WINDOWS
from edge_s2a.system.memory import peak_resident_bytes, resident_bytes

__all__ = ["make_allocator_predictable", "peak_resident_bytes", "resident_bytes"]

# Parameters of mallopt, from <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def make_allocator_predictable() -> None:
    """Makes the C allocator return large blocks to the system when they are freed, and keep one heap for all threads.

    By default glibc raises the size above which it maps blocks as it sees them freed, and gives each thread a heap:
    resident memory then depends on history. C libraries without mallopt do neither.
    """
    if IS_WINDOWS:
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_ARENA_MAX, 1)
        library.mallopt(M_MMAP_THRESHOLD, 128 * 1024)
        library.mallopt(M_TRIM_THRESHOLD, 128 * 1024)
