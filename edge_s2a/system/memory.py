"""Tells the memory of this process, and what the machine leaves it."""

import sys
from pathlib import Path

import psutil

from edge_s2a.system import IS_LINUX, IS_WINDOWS

_most_seen = 0


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def peak_resident_bytes() -> int:
    """The largest resident memory in the life of this process: VmHWM of Linux, the peak working set of Windows, the
    maximum that macOS keeps; on other systems the largest that was seen by calls of this function."""
    global _most_seen
    if IS_LINUX:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("/proc/self/status has no VmHWM")
    _most_seen = max(_most_seen, resident_bytes())
    if IS_WINDOWS:
        return int(getattr(psutil.Process().memory_info(), "peak_wset"))  # noqa: B009 - exists there alone
    if sys.platform == "darwin":
        import resource

        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return _most_seen


def available_bytes() -> int:
    """Memory that a process can have beyond what it has, without the limits of control groups."""
    return int(psutil.virtual_memory().available)
