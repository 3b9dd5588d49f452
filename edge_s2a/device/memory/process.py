"""Resident memory of this process, and telling the C allocator to be predictable."""

import ctypes
import re
from pathlib import Path

import psutil

from edge_s2a.errors import UserError

MIB = 1 << 20
UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9,
    "k": 1 << 10, "m": 1 << 20, "g": 1 << 30,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
}  # fmt: skip

# Parameters of mallopt, from <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def parse_size(text: str) -> int:
    """Bytes of "192MiB", "0.5GiB", "200MB" or a plain number. Raises UserError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in UNITS:
        raise UserError(f"{text!r} is not a size; write for example 192MiB, 0.5GiB or 200MB")
    return int(float(match[1]) * UNITS[match[2].lower()])


def format_size(size: int) -> str:
    return f"{size / MIB:.1f} MiB"


def resident_bytes() -> int:
    """Resident memory now."""
    return psutil.Process().memory_info().rss


def peak_resident_bytes() -> int:
    """The most resident memory that this process ever had: VmHWM."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def make_allocator_predictable() -> None:
    """Large blocks go back to the system when freed, and threads share one heap.

    glibc otherwise raises the size above which it maps blocks as it sees them freed, and gives each
    thread a heap of its own: then resident memory depends on history. Other C libraries lack mallopt
    and this habit.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_ARENA_MAX, 1)
        library.mallopt(M_MMAP_THRESHOLD, 128 * 1024)
        library.mallopt(M_TRIM_THRESHOLD, 128 * 1024)
