"""Tries what devices in the field have and this machine has not: file systems, users, limits, swap, clocks.

    python -m tools.studies.odd_systems ARTIFACT DATA    (as root, on Linux; what is missing is said so)

On each it trains, is killed after some steps, goes on, learns in one pass, and learns more into the same file. Prints
one line each: "as here" where adapter and classifier have the bytes that they have on this machine's own file system.

FAT, exFAT and NTFS are those of FUSE (packages fusefat, exfat-fuse, ntfs-3g). "no locks" answers ENOLCK to flock, as
NFS without its daemon does. The clock is that of the package faketime.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from edge_s2a.artifact.header import LENGTH_BYTES

BUDGET = ["--memory-budget", "300MiB", "--threads", "1"]
NOBODY = 65534
IMAGE_BYTES = 512 << 20


class Place(NamedTuple):
    """Where and how commands run."""

    folder: Path
    before: tuple[str, ...] = ()  # the command that runs them
    environment: Mapping[str, str] = MappingProxyType({})


class Missing(Exception):
    """This machine cannot try it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("data", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        expected = tried(Place(made(Path(folder) / "here")), given.artifact, given.data)
        print(f"{'here':<34}{expected[0]}")
        for name, place in PLACES.items():
            try:
                with place(made(Path(folder) / name.replace(" ", "_"))) as where:
                    found = tried(where, given.artifact, given.data)
                    same = found == expected
                    print(f"{name:<34}{'as here' if same else found[0] or 'another result'}", flush=True)
            except Missing as reason:
                print(f"{name:<34}not tried: {reason}", flush=True)


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


# -- what is run ---------------------------------------------------------------------------------------


def tried(place: Place, artifact: Path, data: Path) -> tuple[str, list[bytes]]:
    """("" or what went wrong, the tensors of what was trained and learned)."""
    run, knowledge = place.folder / "run", place.folder / "K.safetensors"
    train = ["train", artifact, "--data", data, "--output", run, "--epochs", 3, "--checkpoint-minutes", 0, *BUDGET]
    began = start(place, *train)
    deadline_s = time.monotonic() + 120
    while steps_in(run / "metrics.jsonl") < 3 and began.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.01)
    began.send_signal(signal.SIGKILL)
    _, stderr = began.communicate()
    if steps_in(run / "metrics.jsonl") < 3:
        return "train: " + last_line(stderr), []
    for command in (
        [*train, "--resume"],
        ["learn", artifact, "--data", data / "val", "--output", knowledge, *BUDGET],
        ["learn", knowledge, "--artifact", artifact, "--data", data, *BUDGET],
    ):
        process = start(place, *command)
        _, stderr = process.communicate()
        if process.returncode:
            return f"{command[0]}: exit code {process.returncode}, {last_line(stderr)}", []
    return "", [tensors_of(run / "adapter.safetensors"), tensors_of(run / "best.safetensors"), tensors_of(knowledge)]


def start(place: Place, *arguments: object) -> subprocess.Popen:
    command = [*place.before, sys.executable, "-m", "edge_s2a", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, **place.environment}
    )


def steps_in(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.read_text().count('"kind": "step"')
    return 0


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing said"])[-1]


def tensors_of(path: Path) -> bytes:
    """What follows the header, which may tell times and peaks."""
    data = path.read_bytes()
    return data[LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little") :]


# -- where ---------------------------------------------------------------------------------------------


def called(*command: object) -> str:
    try:
        return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as error:
        raise Missing(f"no {command[0]}") from error
    except subprocess.CalledProcessError as error:
        raise Missing(f"{command[0]}: {last_line(error.stderr or error.stdout)}") from error


def file_system(make: list[str], mount: list[str]) -> Callable[[Path], contextlib.AbstractContextManager[Place]]:
    """make, mount: commands, to which the image, and the folder, are added."""

    @contextlib.contextmanager
    def place(folder: Path) -> Iterator[Place]:
        image, there = folder / "image", made(folder / "there")
        with open(image, "wb") as file:
            file.truncate(IMAGE_BYTES)
        called(*make, image)
        device = called("losetup", "--find", "--show", image).strip()
        try:
            called(*mount, device, there)
            try:
                yield Place(there)
            finally:
                subprocess.run(["umount", there], check=False)
        finally:
            subprocess.run(["losetup", "--detach", device], check=False)

    return place


@contextlib.contextmanager
def in_memory(folder: Path) -> Iterator[Place]:
    called("mount", "-t", "tmpfs", "none", folder)
    try:
        yield Place(folder)
    finally:
        subprocess.run(["umount", folder], check=False)


@contextlib.contextmanager
def overlay(folder: Path) -> Iterator[Place]:
    """As a read-only root with a writable layer above it."""
    called("mount", "-t", "tmpfs", "none", folder)
    lower, upper, work, there = (made(folder / name) for name in ("lower", "upper", "work", "there"))
    try:
        called("mount", "-t", "overlay", "none", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", there)
        yield Place(there)
        subprocess.run(["umount", there], check=False)
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


@contextlib.contextmanager
def no_locks(folder: Path) -> Iterator[Place]:
    source, library = folder / "no_locks.c", folder / "no_locks.so"
    source.write_text("#include <errno.h>\nint flock(int file, int how) { errno = ENOLCK; return -1; }\n")
    called("cc", "-shared", "-fPIC", "-o", library, source)
    yield Place(made(folder / "there"), environment={"LD_PRELOAD": str(library)})


@contextlib.contextmanager
def no_rights(folder: Path) -> Iterator[Place]:
    """A user who may write nothing but the output and /tmp, with a home that is read-only and empty."""
    home, there = made(folder / "home"), made(folder / "there")
    os.chown(there, NOBODY, NOBODY)
    called("mount", "--bind", home, home)
    called("mount", "-o", "remount,bind,ro", home)
    before = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs")
    try:
        yield Place(there, before, {"HOME": str(home)})
        if left := list(home.iterdir()):
            raise AssertionError(f"written to the home: {left}")
    finally:
        subprocess.run(["umount", home], check=False)


@contextlib.contextmanager
def half_a_processor(folder: Path) -> Iterator[Place]:
    """A cgroup with a quota of 0.5 processors."""
    first, second = Path("/sys/fs/cgroup/cpu/edge-s2a-half"), Path("/sys/fs/cgroup/edge-s2a-half")
    group = first if first.parent.exists() else second
    try:
        group.mkdir()
        try:
            name, value = ("cpu.cfs_quota_us", "50000") if group == first else ("cpu.max", "50000 100000")
            (group / name).write_text(value)
            inside = f'echo $$ > {group}/cgroup.procs; exec "$@"'
            yield Place(folder, ("sh", "-c", inside, "sh"))
        finally:
            group.rmdir()
    except OSError as error:
        raise Missing(str(error)) from error


@contextlib.contextmanager
def swap_on_zram(folder: Path) -> Iterator[Place]:
    """A cgroup of 40 MiB: what does not fit goes to compressed memory."""
    device, group = Path("/dev/zram0"), Path("/sys/fs/cgroup/memory/edge-s2a-swap")
    if not device.exists() or not group.parent.exists():
        raise Missing("no zram, or no cgroup of version 1 for memory")
    try:
        Path("/sys/block/zram0/disksize").write_text(str(512 << 20))
        called("mkswap", device)
        called("swapon", device)
        group.mkdir()
        try:
            (group / "memory.limit_in_bytes").write_text(str(40 << 20))
            inside = f'echo $$ > {group}/cgroup.procs; exec "$@"'
            yield Place(folder, ("sh", "-c", inside, "sh"))
            most = [int((group / f"memory.{name}max_usage_in_bytes").read_text()) for name in ("memsw.", "")]
            if most[0] <= most[1]:
                raise AssertionError("nothing was swapped")
        finally:
            group.rmdir()
    except OSError as error:
        raise Missing(str(error)) from error
    finally:
        subprocess.run(["swapoff", device], check=False, capture_output=True)
        with contextlib.suppress(OSError):
            Path("/sys/block/zram0/reset").write_text("1")


@contextlib.contextmanager
def clock_jumps(folder: Path) -> Iterator[Place]:
    """The wall clock goes back by a year after some tenths of a second; the monotonic one goes on."""
    called("faketime", "--version")
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        raise Missing("no libfaketime")
    clock = folder / "clock"
    clock.write_text("+0\n")
    there = made(folder / "there")
    environment = {
        "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    jump = f'(sleep 0.7; echo "-365d" > {clock}) & exec "$@"'
    yield Place(there, ("sh", "-c", f'echo "+0" > {clock}; {jump}', "sh"), environment)


PLACES: dict[str, Callable[[Path], contextlib.AbstractContextManager[Place]]] = {
    "ext2": file_system(["mkfs.ext2", "-q"], ["mount"]),
    "XFS": file_system(["mkfs.xfs", "-q"], ["mount"]),
    "Btrfs": file_system(["mkfs.btrfs", "-q"], ["mount"]),
    "FAT": file_system(["mkfs.vfat"], ["fusefat", "-o", "rw+"]),
    "exFAT": file_system(["mkfs.exfat"], ["mount.exfat-fuse"]),
    "NTFS": file_system(["mkfs.ntfs", "-q", "-F"], ["ntfs-3g"]),
    "tmpfs": in_memory,
    "overlay": overlay,
    "no locks": no_locks,
    "no rights, home is read-only": no_rights,
    "half a processor": half_a_processor,
    "40 MiB and swap on zram": swap_on_zram,
    "clock goes back by a year": clock_jumps,
}

if __name__ == "__main__":
    main()
