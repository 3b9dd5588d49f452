"""deploy/service.py: the unit is what systemd accepts, and what it starts is train, resumed or new, in its budget.

No systemd runs here. Its part, starting the unit's command under its limit, stopping it with SIGTERM and starting it
again, is done by the tests; a program in the place of systemctl notes what it is told.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.commands import run_command
from tests.helpers.images import write_images
from tests.helpers.installer import device_environment
from tests.helpers.paths import PROJECT
from tests.helpers.runs import metrics_of

SERVICE = PROJECT / "deploy" / "service.py"
LIMITED = PROJECT / "tools" / "benchmarks" / "limited.py"
MIB = 1 << 20


@pytest.fixture
def folder(tmp_path, small_artifact):
    """A folder with model and images whose name needs quoting, in a home of its own."""
    folder = tmp_path / 'photos 100% of $HOME "now"'
    write_images(folder / "data" / "train", 8, seed=0)
    write_images(folder / "data" / "val", 2, seed=1)
    shutil.copy(small_artifact, folder / "model.s2a")
    return folder


def environment(home):
    programs = home / ".local" / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    (programs / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> "{home}/systemctl.log"\n')
    (programs / "systemctl").chmod(0o755)
    return {**device_environment(home), "PYTHONPATH": str(PROJECT)}


def service(home, folder, *arguments):
    return subprocess.run(
        [sys.executable, str(SERVICE), *map(str, arguments)], capture_output=True, text=True, cwd=folder,
        env=environment(home), check=False,
    )  # fmt: skip


def train_options(*more):
    return [
        "train", "model.s2a", "--data", "data", "--output", "runs/night one", "--memory-budget", "200MiB",
        "--epochs", 30, "--batch-size", 6, "--threads", 1, *more,
    ]  # fmt: skip


def unit_of(home, name="night"):
    return home / ".config/systemd/user" / f"edge-s2a-{name}.service"


def settings(unit):
    lines = [line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return {key: value.replace("%%", "%") for key, value in lines}


def command_of(unit):
    """What systemd executes: its quoting is that of a shell for what service.py writes, but $$ is a dollar."""
    return [word.replace("$$", "$") for word in shlex.split(settings(unit)["ExecStart"])]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd's own judge of units")
def test_systemd_accepts_the_unit(tmp_path, folder):
    assert service(tmp_path, folder, "night", *train_options()).returncode == 0
    unit = unit_of(tmp_path)
    (tmp_path / "runtime").mkdir()
    verified = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(unit)], capture_output=True, text=True, check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path / "runtime")},
    )  # fmt: skip
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


def test_the_unit_is_written_and_enabled(tmp_path, folder):
    done = service(tmp_path, folder, "night", *train_options())
    assert done.returncode == 0, done.stderr
    unit = unit_of(tmp_path)
    assert (tmp_path / "systemctl.log").read_text().splitlines() == [
        "--user daemon-reload",
        "--user enable --now edge-s2a-night.service",
    ]
    assert settings(unit)["MemoryMax"] == str(232 * MIB)  # the budget, and 32 MiB for what the kernel counts beside it
    assert settings(unit)["WorkingDirectory"] == str(folder)
    assert settings(unit)["ConditionPathExists"] == f"!{folder}/runs/night one/summary.json"


def test_it_goes_on_after_a_reboot_to_the_same_adapter(tmp_path, folder):
    """Stopped by SIGTERM, as at a shutdown, and by SIGKILL, as when power fails; each time started again."""
    assert service(tmp_path, folder, "night", *train_options("--checkpoint-minutes", 0.001)).returncode == 0
    unit = unit_of(tmp_path)
    run = folder / "runs" / "night one"
    codes = []
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen(
            command_of(unit), cwd=settings(unit)["WorkingDirectory"], env=environment(tmp_path),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        steps = len(metrics_of(run)) if (run / "metrics.jsonl").exists() else 0
        while process.poll() is None and not (run / "metrics.jsonl").exists():
            time.sleep(0.01)
        while process.poll() is None and len(metrics_of(run)) < steps + 5:
            time.sleep(0.01)
        process.send_signal(number)
        codes.append(process.wait())
    assert codes == [int(settings(unit)["SuccessExitStatus"]), -signal.SIGKILL]
    assert not (run / "summary.json").exists()  # the unit's condition: it would be started again

    last = subprocess.run(
        command_of(unit), cwd=settings(unit)["WorkingDirectory"], env=environment(tmp_path), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert last.returncode == 0, last.stderr
    assert "resumed at" in last.stderr
    assert (run / "summary.json").exists()

    options = train_options()
    options[options.index("runs/night one")] = folder / "undisturbed"
    assert run_command(*options, cwd=folder).returncode == 0
    adapters = [(path / "adapter.safetensors").read_bytes() for path in (run, folder / "undisturbed")]
    assert adapters[0] == adapters[1]


def test_its_memory_limit_is_enough_and_not_felt(tmp_path, folder, deit_artifact, photo_folder):
    """Under MemoryMax as a hard limit of the kernel, where the plan fills the budget."""
    options = [
        "train", deit_artifact, "--data", photo_folder, "--output", "run", "--memory-budget", "150MiB",
        "--epochs", 1, "--batch-size", 16, "--threads", 1,
    ]  # fmt: skip
    done = service(tmp_path, folder, "deit", *options)
    assert done.returncode == 0, done.stderr
    unit = unit_of(tmp_path, "deit")
    limited = [sys.executable, "-S", "-E", str(LIMITED), settings(unit)["MemoryMax"], "--"]
    done = subprocess.run(
        [*limited, *command_of(unit)], capture_output=True, text=True, cwd=folder, env=environment(tmp_path), check=True
    )
    report = json.loads(done.stderr.splitlines()[-1])
    assert report["returncode"] == 0, done.stderr
    assert report["peak_rss_bytes"] <= 150 * MIB
    assert "scarce" not in done.stderr
    assert json.loads((folder / "run" / "summary.json").read_text())["budget_bytes"] == 150 * MIB


@pytest.mark.parametrize(
    ("name", "options", "code", "message"),
    [
        ("night", train_options("--memory-budget", "auto"), 2, "a service needs a budget of its own"),
        ("night", train_options("--memory-budget", "20MiB"), 3, "cannot be met"),
        ("night", train_options("--epohcs", 3), 2, "--epohcs"),
        ("night/shift", train_options(), 2, "not of letters, digits, - and _ alone"),
        ("night", ["remove"], 2, "there is no"),
        ("night", ["eval"], 2, "service.py NAME train"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(tmp_path, folder, name, options, code, message):
    done = service(tmp_path, folder, name, *options)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".config").exists()
    assert not (tmp_path / "systemctl.log").exists()


def test_removing_it_keeps_the_run(tmp_path, folder):
    assert service(tmp_path, folder, "night", *train_options()).returncode == 0
    (folder / "runs").mkdir()
    done = service(tmp_path, folder, "night", "remove")
    assert done.returncode == 0, done.stderr
    assert not unit_of(tmp_path).exists()
    assert "--user disable --now edge-s2a-night.service" in (tmp_path / "systemctl.log").read_text()
    assert (folder / "runs").exists()
