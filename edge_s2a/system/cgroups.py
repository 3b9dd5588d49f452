"""Finds the control groups (cgroups, v1 and v2) around this process."""

from collections.abc import Iterator
from pathlib import Path


def cgroups(root: Path, controller: str) -> Iterator[tuple[str, Path]]:
    """Yields ("cgroup2" or "cgroup", folder of its files) of each cgroup around this process that may limit what
    `controller`, such as "memory", is about: the innermost first. root: where /proc and /sys are."""
    for kind, mount, path in _trees(root, controller):
        for folder in (path, *path.parents):
            yield kind, mount / folder.relative_to("/")


def _trees(root: Path, controller: str) -> Iterator[tuple[str, Path, Path]]:
    """Yields (kind, where its tree is mounted, the absolute path of this process in that tree)."""
    places: dict[str, str] = {}
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            places["cgroup2"] = path
        elif controller in controllers.split(","):
            places["cgroup"] = path
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        mount, system = line.split(" - ", 1)
        kind, _, options = system.split(" ")[:3]
        if kind in places and (kind == "cgroup2" or controller in options.split(",")):
            mounted_root, mounted_at = mount.split(" ")[3:5]
            place = Path(places[kind])
            if place.is_relative_to(mounted_root):
                place = Path("/") / place.relative_to(mounted_root)
            yield kind, root / mounted_at.lstrip("/"), place
