"""The memory of this process and what it can have, as psutil tells on any system."""

import sys

import psutil

from edge_s2a.system.which import MAXIMUM_OF_SAMPLES, PEAK

_largest_sample_bytes = 0


def resident_bytes() -> int:
    """Resident memory now."""
    global _largest_sample_bytes
    size = psutil.Process().memory_info().rss
    _largest_sample_bytes = max(_largest_sample_bytes, size)
    return size


def peak_resident_bytes() -> int:
    """The largest resident memory in the life of this process, from where `which.PEAK` says: of samples alone where the
    system tells none."""
    now_bytes = resident_bytes()
    if PEAK == MAXIMUM_OF_SAMPLES:
        return _largest_sample_bytes
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    if sys.platform == "darwin":
        import resource

        # In bytes on macOS, unlike on Linux.
        return max(now_bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    raise AssertionError(PEAK)


def make_allocator_predictable() -> None:
    """Does nothing: what an allocator of another system keeps is in `resident_bytes`, and is not known beforehand."""


def attainable_bytes() -> int:
    """The resident memory that this process can reach before the machine runs out of it: what it has, plus what is free
    or can be freed without swapping. No limit of the process itself is known."""
    return resident_bytes() + psutil.virtual_memory().available
