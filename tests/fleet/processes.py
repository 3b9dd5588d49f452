"""Starts the processes of a fleet on this machine, and reads what they leave."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from edge_s2a.artifact.archive import Artifact, write_archive
from tests.helpers.artifacts import pack
from tests.helpers.flower import FLOWER_APP, without_python


@dataclasses.dataclass
class Device:
    """What a SuperNode is started with."""

    artifact: Path
    data: Path
    budget_mib: int


class Fleet:
    """A SuperLink and its SuperNodes, as processes."""

    def __init__(self, processes: contextlib.ExitStack, folder: Path, python: Path, devices: Mapping[str, Device]):
        self.processes, self.folder, self.python = processes, folder, python
        port = free_port()
        start(processes, folder, "superlink", python, [
            "flower-superlink", "--insecure", "--disable-runtime-dependency-installation", "--port", port,
        ])  # fmt: skip
        wait_for(lambda: answers(port), folder)
        self.nodes = {
            name: start(processes, folder, name, python, [
                "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--port", free_port(),
                "--node-config", f'artifact="{device.artifact}" data="{device.data}" '
                f'memory-budget="{device.budget_mib}MiB" threads=1',
            ])
            for name, device in devices.items()
        }  # fmt: skip
        wait_for(lambda: all("SuperNode ID" in (folder / f"{name}.log").read_text() for name in devices), folder)
        (folder / "config.toml").write_text(f'[superlink.fleet]\naddress = "127.0.0.1:{port}"\ninsecure = true\n')

    def run(self, name: str, settings: str) -> subprocess.Popen:
        """Starts a run with this --run-config, whose log is FOLDER/<name>.log."""
        command = ["flwr", "run", FLOWER_APP, "fleet", "--stream", "--run-config", settings]
        return start(self.processes, self.folder, name, self.python, command)

    def peaks(self, name: str) -> list[int]:
        """Peak resident bytes of each process that device `name` has started for a message."""
        return list(map(int, (self.folder / f"{name}.peaks").read_text().split()))


@contextlib.contextmanager
def running(folder: Path, python: Path, devices: Mapping[str, Device]) -> Iterator[Fleet]:
    with contextlib.ExitStack() as processes:
        yield Fleet(processes, folder, python, devices)


def write_demo_artifact(path: Path, **options) -> Path:
    """The demo model of the quick start, for ten digits."""
    from edge_s2a.quickstart import DESCRIPTION, WEIGHTS

    description = json.loads(DESCRIPTION.read_text())
    model = {"model": description["model"], "model_kwargs": description["model_kwargs"]}
    return pack(path, **model, weights=WEIGHTS, labels=None, num_classes=10, **options)


def relabelled(artifact: Path, output: Path) -> Path:
    """The same model for other classes."""
    source = Artifact(artifact)
    labels = [f"letter {number}" for number in range(source.manifest.num_classes)]
    members = {name: source.read(name) for name in source.manifest.members}
    write_archive(output, dataclasses.replace(source.manifest, labels=labels), members)
    return output


def start(processes, folder, name, python, command) -> subprocess.Popen:
    """A process group of its own, which ends with `processes`. Flower asks nobody on the internet for anything."""
    shim = folder / f"{name}-bin" / "flwr-clientapp"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {Path(__file__).parent / "launcher.py"} "$@"\n')
    shim.chmod(0o755)
    environment = {
        **without_python(os.environ), "PATH": f"{shim.parent}:{python.parent}:/usr/bin:/bin", "HOME": str(folder),
        "FLWR_HOME": str(folder if "run" in command else folder / f"{name}-home"),
        "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1",
        "FLEET_CLIENTAPP": str(python.parent / "flwr-clientapp"), "FLEET_PEAKS": str(folder / f"{name}.peaks"),
    }  # fmt: skip
    log = processes.enter_context(open(folder / f"{name}.log", "w"))
    process = subprocess.Popen(
        list(map(str, command)), cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    processes.callback(end, process)
    return process


def end(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def superexec_of(supernode: int) -> psutil.Process:
    """The process that starts a process for each message."""
    (found,) = (
        child for child in psutil.Process(supernode).children() if "flower-superexec" in " ".join(child.cmdline())
    )
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def notes(output: Path) -> list[dict]:
    path = output / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition, folder: Path, timeout_s: float = 420) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, (folder / "superlink.log").read_text()[-4000:]
        time.sleep(0.2)


def of_kind(lines: list[dict], kind: str, number: int | None = None) -> list[dict]:
    """What devices have answered, in round `number` or in all."""
    wanted = [line for line in lines if line["kind"] == kind and "error" not in line]
    return [line for line in wanted if number is None or line["round"] == number]
