"""How much memory this process can have: what the machine and its control groups (cgroups, v1 and v2) leave it."""

from collections.abc import Iterator
from pathlib import Path

from edge_s2a.device.cgroups import cgroups
from edge_s2a.errors import UserError
from edge_s2a.sizes import MIB, parse_size

# Left to the rest of the system, where another process may need some while a step runs.
RESERVE_BYTES = 32 * MIB
RESERVE_SHARE = 0.1
UNLIMITED_BYTES = 1 << 60  # cgroup v1 reports a number above this where there is no limit


def parse_budget(budget: int | str) -> int:
    """Returns the bytes of `--memory-budget`: a size, or for "auto" what is attainable now less the reserve. Raises
    UserError for text that is no size, and where nothing is left."""
    if isinstance(budget, int):
        return budget
    if budget != "auto":
        return parse_size(budget)
    budget_bytes = less_reserve(attainable_bytes())
    if budget_bytes <= 0:
        raise UserError("the machine or its cgroup leaves no memory; end other programs, or raise the limit")
    return budget_bytes


def less_reserve(attainable: int) -> int:
    """Bytes that a budget may claim of `attainable` bytes."""
    return attainable - max(RESERVE_BYTES, int(RESERVE_SHARE * attainable))


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
