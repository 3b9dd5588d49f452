"""Files that are read and written at an offset, replaced while they are open, and mapped where pages are large."""

import errno
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from edge_s2a.artifact.archive import WEIGHTS, Artifact
from edge_s2a.artifact.files import write_bytes
from edge_s2a.errors import UserError
from edge_s2a.run.schema import SkippedLine
from edge_s2a.run.writer import MetricsFile
from edge_s2a.system import files
from tests.helpers.paths import PROJECT
from tests.helpers.systems import linux_alone

AT_OFFSETS = """
import sys, os
from edge_s2a.system.files import open_shared, read_at, read_into, write_at
from pathlib import Path
file = open_shared(Path(sys.argv[1]), writes=True)
descriptor = file.fileno()
assert write_at(descriptor, b"0123456789", 0) == 10
assert write_at(descriptor, b"ab", 4) == 2
assert file.read(3) == b"012"
assert read_at(descriptor, 4, 3) == b"3ab6"
buffer = bytearray(4)
assert read_into(descriptor, memoryview(buffer), 8) == 2
assert buffer == b"89\\0\\0"
assert read_at(descriptor, 4, 10) == b""
assert file.read(3) == b"3ab"  # the position of who reads in order has not moved
"""


@pytest.mark.parametrize("system", ["", "portable"])
def test_reading_and_writing_at_an_offset_moves_nobody(tmp_path, system):
    subprocess.run(
        [sys.executable, "-c", AT_OFFSETS, tmp_path / "file"], check=True, cwd=PROJECT,
        env={**os.environ, "EDGE_S2A_SYSTEM": system},
    )  # fmt: skip


def test_threads_that_read_at_offsets_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"".join(number.to_bytes(4, "little") for number in range(5000)))
    wrong = []
    with files.open_shared(path) as file:

        def read(first: int) -> None:
            for number in range(first, 5000, 3):
                if files.read_at(file.fileno(), 4, 4 * number) != number.to_bytes(4, "little"):
                    wrong.append(number)

        threads = [threading.Thread(target=read, args=(first,)) for first in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_an_open_file_keeps_its_content_when_another_takes_its_name(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with files.open_shared(path) as file:
        write_bytes(path, b"new")
        assert files.read_at(file.fileno(), 3, 0) == b"old"
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EEXIST])
def test_a_file_system_that_does_not_rename_is_one_error(tmp_path, monkeypatch, number):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def refuse(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(UserError, match=f"cannot write .*{os.strerror(number)}"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def as_windows(monkeypatch):
    """Has `replace` run as on Windows; names in the returned set are refused as targets, as if open."""
    open_names, real = set(), os.replace

    def strict(source, target):
        if os.path.basename(target) in open_names:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        real(source, target)

    monkeypatch.setattr(files.sys, "platform", "win32")
    monkeypatch.setattr(files.os, "replace", strict)
    return open_names


def test_on_windows_an_open_file_gets_another_name_first(tmp_path, as_windows, monkeypatch):
    source, target = tmp_path / "new", tmp_path / "file"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    as_windows.add("file")
    real = files.os.replace

    def moved_aside(old, new):
        real(old, new)
        as_windows.clear()  # what has no name can be replaced

    monkeypatch.setattr(files.os, "replace", moved_aside)
    files.replace(source, target)
    assert target.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_on_windows_who_looks_at_a_file_for_a_moment_is_waited_for(tmp_path, as_windows):
    source, target = tmp_path / "new", tmp_path / "file"
    source.write_bytes(b"new")
    as_windows.add("file")
    threading.Timer(0.2, as_windows.clear).start()
    files.replace(source, target)
    assert target.read_bytes() == b"new"


def test_on_windows_a_file_that_stays_open_is_an_error(tmp_path, as_windows, monkeypatch):
    monkeypatch.setattr(files, "LONGEST_WAIT_S", 0.2)
    (tmp_path / "new").write_bytes(b"new")
    as_windows.add("file")
    with pytest.raises(PermissionError):
        files.replace(tmp_path / "new", tmp_path / "file")


@linux_alone
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_folders_is_written_all_the_same(tmp_path, monkeypatch, number):
    fsync = os.fsync

    def refuse_folders(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", refuse_folders)
    write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_a_file_system_without_rights_is_written_all_the_same(tmp_path, monkeypatch, number):
    def refuse(path, mode):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("edge_s2a.artifact.files.os.chmod", refuse)
    write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("granularity", [4096, 16384, 65536])
def test_members_are_mapped_whatever_the_size_of_pages(small_artifact, monkeypatch, granularity):
    """16 KiB on a Raspberry Pi 5 and on macOS, 64 KiB on some Arm servers and on Windows: a mapping begins at a
    multiple of that, a member at one of 4 KiB."""
    asked = []
    real = mmap.mmap

    def mapped(number, length, access, offset):
        asked.append(offset)
        return real(number, length, access=access, offset=offset)

    monkeypatch.setattr(mmap, "ALLOCATIONGRANULARITY", granularity)
    monkeypatch.setattr(mmap, "mmap", mapped)
    artifact = Artifact(small_artifact)
    for name in artifact.manifest.members:
        np.testing.assert_array_equal(artifact.map(name), np.frombuffer(artifact.read(name), np.uint8))
    assert WEIGHTS in artifact.manifest.members
    assert not [offset for offset in asked if offset % granularity]


@linux_alone
def test_records_that_a_full_disk_does_not_take_are_one_error_when_the_run_ends_too():
    """What is left in the buffer is tried again when the file is closed."""
    metrics = MetricsFile(Path("/dev/full"))
    for act in (lambda: metrics.write(SkippedLine(epoch=1, step=1, reason="not finite")), metrics.close):
        with pytest.raises(UserError, match="cannot write /dev/full: No space left on device"):
            act()
