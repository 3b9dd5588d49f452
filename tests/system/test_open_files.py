"""No file is replaced or removed while it is open, unless it was opened for that: Windows would refuse it.

Commands run here with `os.replace` and `os.unlink` as strict as there.
"""

import os
import subprocess
import sys

import pytest

from tests.helpers.paths import PROJECT

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="asks Linux which files are open")

AS_STRICT_AS_WINDOWS = """
import os, sys, weakref
import edge_s2a.system.files as files

shared = []
open_shared, replace, unlink = files.open_shared, os.replace, os.unlink

def opened(path, writes=False):
    file = open_shared(path, writes)
    shared.append(weakref.ref(file))
    return file

def require_closed(path):
    path = os.path.realpath(path)
    allowed = {file().fileno() for file in shared if file() is not None and not file().closed}
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            name = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if name == path and number not in allowed:
            raise PermissionError(13, "is open", path)
    with open("/proc/self/maps") as maps:
        if any(line.rstrip().endswith(" " + path) for line in maps):
            raise PermissionError(13, "is mapped", path)

def strict_replace(source, target, **_):
    require_closed(source)
    require_closed(target)
    replace(source, target)

def strict_unlink(path, **_):
    require_closed(path)
    unlink(path)

files.open_shared, os.replace, os.unlink, os.remove = opened, strict_replace, strict_unlink, strict_unlink
from edge_s2a.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def run(*arguments) -> None:
    command = [sys.executable, "-c", AS_STRICT_AS_WINDOWS, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.returncode == 0, done.stderr


BUDGET = ["--memory-budget", "300MiB", "--threads", 1]


def test_the_check_finds_a_file_that_is_open(tmp_path):
    held = AS_STRICT_AS_WINDOWS.replace("from edge_s2a.cli.main import main", "held = open(sys.argv[1], 'w')")
    code = held.replace("sys.exit(main(sys.argv[1:]))", "os.unlink(sys.argv[1])")
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "file"], capture_output=True, text=True, cwd=PROJECT, check=False
    )
    assert "PermissionError" in done.stderr


def test_learning_twice_into_one_file(small_artifact, image_folder, tmp_path):
    knowledge = tmp_path / "K.safetensors"
    run("learn", small_artifact, "--data", image_folder / "val", "--output", knowledge, *BUDGET)
    run("learn", knowledge, "--artifact", small_artifact, "--data", image_folder, *BUDGET)
    run("learn", knowledge, "--artifact", small_artifact, "--forget", "red", *BUDGET)
    run("predict", small_artifact, "--adapter", knowledge, next((image_folder / "val" / "red").iterdir()))


def test_training_again_into_one_folder_and_going_on(small_artifact, image_folder, tmp_path):
    options = ["--data", image_folder, "--output", tmp_path / "run", "--epochs", 2, "--checkpoint-minutes", 0, *BUDGET]
    run("train", small_artifact, *options)
    run("train", small_artifact, *options)
    run("train", small_artifact, *options, "--resume")


def test_training_from_what_was_learned(small_artifact, image_folder, tmp_path):
    run(
        "train", small_artifact, "--data", image_folder, "--output", tmp_path / "run", "--epochs", 2, "--start",
        "learned", *BUDGET,
    )  # fmt: skip
