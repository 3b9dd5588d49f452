"""The memory of this process and what it can have, as Linux tells: /proc, control groups (cgroups, v1 and v2), and an
allocator that behaves the same on every run."""

import ctypes
from collections.abc import Iterator
from pathlib import Path

import psutil

from edge_s2a.system.cgroups import cgroups

# Parameters of mallopt, from <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
UNLIMITED_BYTES = 1 << 60  # cgroup v1 reports a number above this where there is no limit


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


def attainable_bytes(root: Path = Path("/")) -> int:
    """The resident memory that this process can reach before the machine or a cgroup runs out of it: what it has, plus
    what is free or can be freed by dropping clean pages of files. root: where /proc and /sys are."""
    anonymous_bytes, file_bytes = resident_parts(root)
    free_bytes = read_fields(root / "proc/meminfo")["MemAvailable"] * 1024
    for limit_bytes, used_bytes in cgroup_limits(root):
        free_bytes = min(free_bytes, limit_bytes - used_bytes)
    return anonymous_bytes + file_bytes + free_bytes


def resident_parts(root: Path) -> tuple[int, int]:
    """Resident bytes of this process: (its own, those of mapped files, which count as free elsewhere)."""
    fields = read_fields(root / "proc/self/status")
    return fields["RssAnon"] * 1024, (fields["RssFile"] + fields["RssShmem"]) * 1024


def cgroup_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yields (limit, bytes in use that cannot be dropped) of each cgroup around this process that has a limit."""
    for kind, place in cgroups(root, "memory"):
        limit_name, usage_name, files_name = {
            "cgroup2": ("memory.max", "memory.current", "file"),
            "cgroup": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
        }[kind]
        try:
            text = (place / limit_name).read_text().strip()
            used_bytes = int((place / usage_name).read_text())
            statistics = read_fields(place / "memory.stat")
        except OSError:
            continue  # the root of v2 has no such files; a container sees only what is below its own root
        if text != "max" and int(text) < UNLIMITED_BYTES:
            # Files in memory file systems count as files, but cannot be dropped.
            shared_bytes = statistics.get("shmem", 0) if kind == "cgroup2" else statistics.get("total_shmem", 0)
            yield int(text), used_bytes - statistics.get(files_name, 0) + shared_bytes


def read_fields(path: Path) -> dict[str, int]:
    """The numbers in a file with lines `name number` or `name: number unit`, by name."""
    fields = {}
    for line in path.read_text().splitlines():
        words = line.replace(":", " ").split()
        if len(words) > 1 and words[1].isdigit():
            fields[words[0]] = int(words[1])
    return fields
