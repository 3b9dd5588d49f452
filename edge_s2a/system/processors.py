"""How many processors this process may use: not all that the machine has."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from edge_s2a.system.cgroups import cgroups
from edge_s2a.system.which import IS_LINUX


def usable_cores() -> int:
    """The physical cores on which this process may run, and no more than its cgroups give it time for; at least 1.

    Threads beyond that wait for each other: an engine's threads spin.
    """
    if IS_LINUX:
        return usable_cores_of_linux()
    return max(1, min(psutil.cpu_count(logical=False) or len(allowed_processors()), len(allowed_processors())))


def usable_cores_of_linux(root: Path = Path("/")) -> int:
    """The same, as Linux tells. root: where /proc and /sys are."""
    allowed = allowed_processors()
    return max(1, min([physical_cores(root, allowed), *map(int, quotas(root))]))


def allowed_processors() -> set[int]:
    """Numbers of the logical processors on which the scheduler may run this process (taskset, cpuset, LXC)."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    if sys.platform == "win32":
        return set(psutil.Process().cpu_affinity())
    return set(range(psutil.cpu_count() or 1))


def physical_cores(root: Path, processors: set[int]) -> int:
    """How many cores these logical processors belong to; each counts as one where the kernel does not tell."""
    siblings = set()
    for number in processors:
        path = root / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"
        try:
            siblings.add(path.read_text().strip())
        except OSError:
            siblings.add(str(number))
    return len(siblings)


def quotas(root: Path) -> Iterator[float]:
    """Yields the processors' worth of time that each cgroup around this process gives it, where there is a limit."""
    try:
        places = list(cgroups(root, "cpu"))
    except OSError:
        return  # no /proc
    for kind, folder in places:
        try:
            if kind == "cgroup2":
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except (OSError, ValueError):
            continue
        if quota != "max" and int(quota) > 0:
            yield int(quota) / int(period)
