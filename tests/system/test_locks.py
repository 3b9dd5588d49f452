"""Locks: one process has them, they go with it, and a file system without any is told from one that is locked."""

import errno
import os
import subprocess
import sys

import pytest

from edge_s2a.artifact.files import locked
from edge_s2a.device.run_folder import RunFolder
from edge_s2a.errors import UserError
from edge_s2a.system.locks import try_to_lock
from tests.helpers.commands import run_command
from tests.helpers.paths import PROJECT
from tests.helpers.systems import linux_alone, not_on_windows

HOLD = """
import sys
from edge_s2a.system.locks import try_to_lock
file = open(sys.argv[1], "ab")
print(try_to_lock(file), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hold(tmp_path):
    """Starts a process that holds the lock of a file until it is killed."""
    processes = []

    def start(path):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT
        )
        processes.append(process)
        assert process.stdout.readline() == "True\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_another_process_is_refused_until_the_holder_is_killed(tmp_path, hold):
    path = tmp_path / "lock"
    holder = hold(path)
    with open(path, "ab") as file:
        assert try_to_lock(file) is False
    with pytest.raises(UserError, match="another process is training into"), locked(path):
        pass
    holder.kill()
    holder.wait()
    with locked(path) as problem:
        assert problem is None


def refuse(number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    return flock


@not_on_windows
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_there_are_no_locks_a_run_goes_on_and_says_so(tmp_path, monkeypatch, number):
    monkeypatch.setattr("fcntl.flock", refuse(number))
    with RunFolder(tmp_path / "run") as folder:
        assert folder.problem == (
            f"the file system of {tmp_path / 'run'} has no locks: see to it that no other process writes there at the "
            "same time"
        )


@not_on_windows
def test_any_other_failure_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", refuse(errno.EIO))
    with pytest.raises(UserError, match=f"cannot write .*{os.strerror(errno.EIO)}"), locked(tmp_path / "lock"):
        pass


WITHOUT_LOCKS = """
#include <errno.h>
int flock(int descriptor, int operation) { errno = ENOLCK; return -1; }
"""


@pytest.fixture(scope="module")
def no_locks(tmp_path_factory):
    """The environment of a process to which the file system says that it has no locks."""
    folder = tmp_path_factory.mktemp("no_locks")
    (folder / "no_locks.c").write_text(WITHOUT_LOCKS)
    library = folder / "no_locks.so"
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, folder / "no_locks.c"], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no C compiler")
    return {**os.environ, "LD_PRELOAD": str(library)}


@linux_alone
def test_commands_on_a_file_system_without_locks(small_artifact, image_folder, tmp_path, no_locks):
    """As NFS without its lock daemon: training and learning end as ever, with a line that says so."""
    warning = "has no locks: see to it that no other process writes there"
    for command in (
        ["train", small_artifact, "--data", image_folder, "--output", tmp_path / "run", "--epochs", 1],
        ["learn", small_artifact, "--data", image_folder, "--output", tmp_path / "K.safetensors"],
    ):
        done = run_command(*command, "--threads", 1, "--memory-budget", "300MiB", env=no_locks)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(warning) == 1
