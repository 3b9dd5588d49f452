"""deploy/install.sh: as a user without root, without compiler, without network."""

import os
import shutil
import signal
import subprocess
import time

import pytest

from edge_s2a.version import __version__
from tests.helpers.installer import INSTALLER, device_environment, install


def run(home, *command):
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, cwd=home, env=device_environment(home), check=False
    )


def environments(home):
    return sorted((home / ".local/share/edge-s2a").glob("environment.*"))


def test_the_command_works_and_torch_is_not_there(device_home, small_artifact):
    done = run(device_home, "edge-s2a", "check", small_artifact)
    assert done.returncode == 0, done.stderr
    python = device_home / ".local/share/edge-s2a/current/bin/python"
    listed = run(device_home, python, "-m", "pip", "list", "--format", "freeze").stdout
    assert "onnxruntime==" in listed
    assert "torch" not in listed
    assert run(device_home, "edge-s2a", "--version").stdout.startswith(f"edge-s2a {__version__} ")


def test_installing_again_replaces_what_was_there(device_home, wheel, wheels):
    (before,) = environments(device_home)
    done = install(device_home, wheel, "--wheels", wheels)
    assert done.returncode == 0, done.stderr
    (after,) = environments(device_home)
    assert after != before
    assert run(device_home, "edge-s2a", "--version").returncode == 0


def test_a_failure_leaves_the_old_one_in_use(device_home, wheel, tmp_path):
    before = environments(device_home)
    (tmp_path / "empty").mkdir()
    done = install(device_home, wheel, "--wheels", tmp_path / "empty")
    assert done.returncode == 2
    assert "nothing was changed" in done.stderr
    assert environments(device_home) == before
    assert run(device_home, "edge-s2a", "--version").returncode == 0


@pytest.mark.parametrize("seconds", [0.3, 2.0, 4.0])
def test_power_fails_while_installing(device_home, wheel, wheels, seconds):
    """The old one stays in use; the next installation clears away what is left."""
    process = subprocess.Popen(
        ["sh", str(INSTALLER), str(wheel), "--wheels", str(wheels)], env=device_environment(device_home),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert run(device_home, "edge-s2a", "--version").returncode == 0
    assert install(device_home, wheel, "--wheels", wheels).returncode == 0
    assert len(environments(device_home)) == 1


def test_another_build_of_the_engine(wheel, wheels, tmp_path):
    """As on a Jetson: the given wheel is installed, and not the onnxruntime of the index."""
    (engine,) = wheels.glob("onnxruntime-*.whl")
    apart = tmp_path / "engine"
    apart.mkdir()
    shutil.copy(engine, apart)
    others = tmp_path / "others"
    shutil.copytree(wheels, others, ignore=shutil.ignore_patterns("onnxruntime-*"))
    done = install(tmp_path, wheel, "--wheels", others, "--engine", apart / engine.name)
    assert done.returncode == 0, done.stderr
    assert run(tmp_path, "edge-s2a", "--version").returncode == 0


def fake_program(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


@pytest.mark.parametrize(
    ("program", "text", "message"),
    [
        ("uname", "echo armv7l", "no wheel for armv7l; on a Raspberry Pi install the 64-bit system"),
        ("python3", "[ $1 = --version ] && echo Python 3.8.10; exit 1", "Python 3.8.10 is too old"),
        ("python3", "[ $1 = -m ] && exit 1; exit 0", "apt install python3-venv"),
    ],
)
def test_what_the_device_lacks_is_said(wheel, tmp_path, program, text, message):
    done = install(tmp_path, wheel, PATH=fake_program(tmp_path / "fake", program, text))
    assert done.returncode == 2
    assert message in done.stderr
    assert not environments(tmp_path)


def test_wrong_arguments(wheel, tmp_path):
    assert "usage:" in install(tmp_path).stderr
    for arguments, message in (
        (["missing.whl"], "there is no file missing.whl"),
        ([wheel, "--wheels", "missing"], "there is no folder missing"),
        ([wheel, "--wheels"], "--wheels needs a folder"),
        ([wheel, "--quick"], "unknown option --quick"),
        ([wheel, wheel], "one wheel of edge-s2a, not two"),
    ):
        done = install(tmp_path, *arguments)
        assert done.returncode == 2
        assert message in done.stderr
    assert not (tmp_path / ".local").exists()
