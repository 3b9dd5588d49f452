"""The memory of this process: how much is resident, and an allocator that behaves the same on every run."""

import ctypes
from pathlib import Path

import psutil

# Parameters of mallopt, from <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def resident_bytes() -> int:
    """Resident memory now."""
    return psutil.Process().memory_info().rss


def peak_resident_bytes() -> int:
    """The largest resident memory in the life of this process: VmHWM."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def make_allocator_predictable() -> None:
    """Makes the C allocator return large blocks to the system when they are freed, and keep one heap for all threads.

    By default glibc raises the size above which it maps blocks as it sees them freed, and gives each thread a heap:
    resident memory then depends on history. C libraries without mallopt do neither.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_ARENA_MAX, 1)
        library.mallopt(M_MMAP_THRESHOLD, 128 * 1024)
        library.mallopt(M_TRIM_THRESHOLD, 128 * 1024)
