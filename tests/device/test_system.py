"""Other operating systems and file systems: what Linux tells, and what remains where it does not."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from edge_s2a.artifact.files import atomic_writer, locked
from edge_s2a.errors import UserError
from tests.helpers.commands import run_command
from tests.helpers.paths import PROJECT

PORTABLE = {**os.environ, "EDGE_S2A_SYSTEM": "portable"}
BUDGET = ("--threads", 1, "--memory-budget", "300MiB")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_written_all_the_same(tmp_path, monkeypatch, code):
    """As some of NFS, and FAT through FUSE."""

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "lock"):
        pass


def test_a_lock_that_is_held_is_not_taken(tmp_path):
    with (
        locked(tmp_path / "lock"),
        pytest.raises(UserError, match="another process is training"),
        locked(tmp_path / "lock"),
    ):
        pass


def test_a_file_system_that_syncs_no_folders_and_has_no_rights_is_written(tmp_path, monkeypatch):
    """As FAT: fsync of a folder says EINVAL, and chmod EPERM. The content is whole all the same."""
    fsync = os.fsync

    def refuse_folders(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    def refuse_rights(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fsync", refuse_folders)
    monkeypatch.setattr(os, "chmod", refuse_rights)
    with atomic_writer(tmp_path / "file") as file:
        file.write(b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_system_that_cannot_rename_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"old")

    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match=r"cannot write .*file"), atomic_writer(tmp_path / "file") as file:
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_training_and_learning_are_the_same_on_every_system(small_artifact, image_folder, tmp_path):
    """Bit for bit: only what is told of memory differs. Kept features, checkpoints and journals are used by both."""
    for name, environment in (("linux", dict(os.environ)), ("portable", PORTABLE)):
        run = tmp_path / name
        done = run_command(
            "train", small_artifact, "--data", image_folder, "--output", run, "--epochs", 2, *BUDGET, "--json",
            env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert 1 << 20 < done.json["peak_rss_bytes"] <= 300 << 20
        learned = run_command(
            "learn", small_artifact, "--data", image_folder, "--output", run / "K.safetensors", *BUDGET, env=environment
        )
        assert learned.returncode == 0, learned.stderr
    for name in ("best.safetensors", "K.safetensors"):
        ours, others = (load_file(tmp_path / run / name) for run in ("linux", "portable"))
        assert ours.keys() == others.keys()
        for key, array in ours.items():
            np.testing.assert_array_equal(others[key], array)


BACK_IN_TIME = """
import sys, time
import edge_s2a
now = time.time
def jump(line):
    time.time = lambda: now() - 365 * 86400
edge_s2a.train(*sys.argv[1:4], memory_budget="300MiB", threads=1, epochs=2, on_step=jump, checkpoint_minutes=0)
"""


def test_a_clock_that_jumps_back_by_a_year_changes_no_duration(small_artifact, image_folder, tmp_path):
    start_s = time.monotonic()
    command = [sys.executable, "-c", BACK_IN_TIME, small_artifact, image_folder, tmp_path / "run"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert 0 < summary["seconds"] <= time.monotonic() - start_s


def test_nothing_is_written_where_nothing_was_told_to_be(small_artifact, image_folder, tmp_path):
    """Nor does the engine leave or send anything: some builds of onnxruntime keep telemetry in a user's cache."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    output = tmp_path / "K.safetensors"
    done = run_command("learn", small_artifact, "--data", image_folder, "--output", output, *BUDGET, env=environment)
    assert done.returncode == 0, done.stderr
    assert os.listdir(home) == []


def test_a_home_that_does_not_exist_is_not_needed(small_artifact, image_folder, tmp_path):
    environment = {**os.environ, "HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none/cache"}
    output = tmp_path / "K.safetensors"
    done = run_command("learn", small_artifact, "--data", image_folder, "--output", output, *BUDGET, env=environment)
    assert done.returncode == 0, done.stderr
