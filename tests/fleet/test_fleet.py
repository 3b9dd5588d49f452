"""A fleet of Flower on this machine: a SuperLink and five SuperNodes, processes as they run on a workstation and on
devices. Three train to the end, one is killed in the middle, one has another artifact."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from edge_s2a.artifact.archive import Artifact, write_archive
from tests.helpers.artifacts import pack
from tests.helpers.commands import run_command
from tests.helpers.flower import FLOWER_APP, without_python

pytestmark = pytest.mark.fleet

MIB = 1 << 20
ROUNDS, LOCAL_STEPS = 5, 10
# Each has most of its images of four digits.
MOSTLY = {"one": {0, 1, 2, 3}, "two": {3, 4, 5, 6}, "three": {6, 7, 8, 9}, "lost": {0, 2, 5, 8}}
BUDGETS_MIB = {"one": 186, "two": 192, "three": 224, "lost": 224, "stranger": 224}

ALONE = """
import json, sys
from pathlib import Path
from edge_s2a.device.trainer import Trainer
from fleet.data import training_images, validation_images
artifact, own, common, steps, lr = sys.argv[1:]
trainer = Trainer(artifact, memory_budget="400MiB", lr=float(lr), threads=1)
trainer.fit(training_images(Path(own), trainer.classes), steps=int(steps))
print(json.dumps(trainer.evaluate(validation_images(Path(common), trainer.classes)).accuracy))
"""


@dataclasses.dataclass
class Fleet:
    """What a run has left."""

    output: Path
    artifact: Path
    digits: Path
    data: dict[str, Path]
    peaks: dict[str, list[int]]
    waiting: dict[str, int]  # resident bytes of a device's processes between messages
    server_log: str

    @property
    def lines(self) -> list[dict]:
        return [json.loads(line) for line in (self.output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def fleet(fleet_python, tmp_path_factory) -> Fleet:
    from edge_s2a.quickstart import DESCRIPTION, WEIGHTS, write_digits

    folder = tmp_path_factory.mktemp("fleet")
    digits = folder / "digits"
    write_digits(digits)
    data = share_out(digits, folder)
    description = json.loads(DESCRIPTION.read_text())
    model = pack(
        folder / "model.s2a", model=description["model"], model_kwargs=description["model_kwargs"],
        weights=WEIGHTS, labels=None, num_classes=10, adapter="bias+lowrank",
    )  # fmt: skip
    other = relabelled(model, folder / "other.s2a")
    output = folder / "output"
    with contextlib.ExitStack() as processes:
        port = free_port()
        start(processes, folder, "superlink", fleet_python, [
            "flower-superlink", "--insecure", "--disable-runtime-dependency-installation", "--port", port,
        ])  # fmt: skip
        wait_for(lambda: answers(port), folder)
        nodes = {
            name: start(processes, folder, name, fleet_python, [
                "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--port", free_port(),
                "--node-config", f'artifact="{other if name == "stranger" else model}" '
                f'data="{data.get(name, digits)}" memory-budget="{budget}MiB" threads=1',
            ])
            for name, budget in BUDGETS_MIB.items()
        }  # fmt: skip
        wait_for(lambda: all("SuperNode ID" in (folder / f"{name}.log").read_text() for name in nodes), folder)
        (folder / "config.toml").write_text(f'[superlink.fleet]\naddress = "127.0.0.1:{port}"\ninsecure = true\n')
        run = start(processes, folder, "run", fleet_python, [
            "flwr", "run", FLOWER_APP, "fleet", "--stream", "--run-config",
            f'artifact="{model}" output="{output}" rounds={ROUNDS} local-steps={LOCAL_STEPS} '
            f"lr=5e-3 min-nodes=3",
        ])  # fmt: skip
        wait_for(lambda: of_kind(notes(output), "train", 2), folder)
        os.killpg(nodes["lost"].pid, signal.SIGKILL)
        wait_for(lambda: run.poll() is not None, folder)
        assert run.returncode == 0
        waiting = {"SuperNode": psutil.Process(nodes["one"].pid), "SuperExec": superexec_of(nodes["one"].pid)}
        waiting = {name: process.memory_info().rss for name, process in waiting.items()}
    peaks = {name: list(map(int, (folder / f"{name}.peaks").read_text().split())) for name in BUDGETS_MIB}
    return Fleet(output, model, digits, data, peaks, waiting, (folder / "run.log").read_text())


def relabelled(artifact: Path, output: Path) -> Path:
    """The same model for other classes."""
    source = Artifact(artifact)
    labels = [f"letter {number}" for number in range(source.manifest.num_classes)]
    members = {name: source.read(name) for name in source.manifest.members}
    write_archive(output, dataclasses.replace(source.manifest, labels=labels), members)
    return output


def share_out(digits: Path, folder: Path) -> dict[str, Path]:
    """Gives each image to one device: four in five to a device that has mostly this digit, if there is one."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for image in sorted((digits / split).glob("*/*.png")):
            owners = [name for name, own in MOSTLY.items() if int(image.parent.name) in own]
            name = rng.choice(owners if rng.random() < 0.8 else list(MOSTLY))
            place = folder / f"{name}-data" / split / image.parent.name / image.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, place)
    return {name: folder / f"{name}-data" for name in MOSTLY}


def start(processes, folder, name, python, command) -> subprocess.Popen:
    """A process group of its own, which ends with `processes`. Flower asks nobody on the internet for anything."""
    shim = folder / f"{name}-bin" / "flwr-clientapp"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {Path(__file__).parent / "launcher.py"} "$@"\n')
    shim.chmod(0o755)
    environment = {
        **without_python(os.environ), "PATH": f"{shim.parent}:{python.parent}:/usr/bin:/bin", "HOME": str(folder),
        "FLWR_HOME": str(folder if name == "run" else folder / f"{name}-home"),
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
    return [line for line in lines if line["kind"] == kind and "error" not in line and number in (None, line["round"])]


def test_the_federated_adapter_beats_each_devices_own(fleet, fleet_python, run_script):
    evaluated = run_command(
        "eval", fleet.artifact, "--adapter", fleet.output / "adapter.safetensors", "--data", fleet.digits,
        "--threads", 1, "--json", python=fleet_python, cwd=fleet.output,
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr
    federated = evaluated.json["accuracy"]
    alone = {
        name: run_script(ALONE, fleet.artifact, own, fleet.digits, ROUNDS * LOCAL_STEPS, 5e-3)
        for name, own in fleet.data.items()
    }
    print(f"\naccuracy on all digits: federated {federated:.3f}, alone {alone}")
    assert federated > max(alone.values()) + 0.05


def test_the_fleet_goes_on_without_the_device_that_was_lost(fleet):
    assert len(of_kind(fleet.lines, "start", 1)) == 4
    assert len(of_kind(fleet.lines, "train", ROUNDS + 1)) == 3
    assert "Node Unavailable" in fleet.server_log or "ClientApp stopped responding" in fleet.server_log


def test_another_artifact_is_refused_in_a_sentence(fleet):
    refused = [line["error"] for line in fleet.lines if "is not the server's" in line.get("error", "")]
    assert len(refused) >= ROUNDS
    assert "other.s2a" in refused[0]
    assert "copy the server's artifact" in refused[0]
    assert refused[0] in fleet.server_log


def test_little_travels(fleet):
    trained = of_kind(fleet.lines, "train")
    size = trained[0]["adapter-bytes"]
    print(f"\nadapter {size} bytes, artifact {fleet.artifact.stat().st_size}")
    assert {line["adapter-bytes"] for line in trained} == {size}
    assert size < 50_000


def test_every_device_keeps_its_budget(fleet):
    for name, peaks in fleet.peaks.items():
        print(f"\n{name}: {max(peaks) / MIB:.1f} of {BUDGETS_MIB[name]} MiB in {len(peaks)} processes", end="")
        if name != "lost":
            assert len(peaks) >= 2 * ROUNDS
        assert max(peaks) <= BUDGETS_MIB[name] * MIB
    print("".join(f"\n{name} of one: {size / MIB:.1f} MiB" for name, size in fleet.waiting.items()))
