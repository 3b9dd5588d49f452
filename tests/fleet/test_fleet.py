"""A fleet of Flower on this machine: a SuperLink and five SuperNodes, processes as they run on a workstation and on
devices. Three train to the end, one is killed in the middle, one has another artifact."""

import dataclasses
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.fleet.processes import (
    Device,
    notes,
    of_kind,
    relabelled,
    running,
    superexec_of,
    wait_for,
    write_demo_artifact,
)
from tests.helpers.commands import run_command

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
class Left:
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
        return notes(self.output)


@pytest.fixture(scope="module")
def fleet(fleet_python, tmp_path_factory) -> Left:
    from edge_s2a.quickstart import write_digits

    folder = tmp_path_factory.mktemp("fleet")
    digits = folder / "digits"
    write_digits(digits)
    data = share_out(digits, folder)
    model = write_demo_artifact(folder / "model.s2a", adapter="bias+lowrank")
    other = relabelled(model, folder / "other.s2a")
    output = folder / "output"
    devices = {
        name: Device(other if name == "stranger" else model, data.get(name, digits), budget)
        for name, budget in BUDGETS_MIB.items()
    }
    with running(folder, fleet_python, devices) as fleet:
        run = fleet.run(
            "run",
            f'artifact="{model}" output="{output}" rounds={ROUNDS} local-steps={LOCAL_STEPS} lr=5e-3 min-nodes=3',
        )
        wait_for(lambda: of_kind(notes(output), "train", 2), folder)
        os.killpg(fleet.nodes["lost"].pid, signal.SIGKILL)
        wait_for(lambda: run.poll() is not None, folder)
        assert run.returncode == 0
        one = fleet.nodes["one"].pid
        waiting = {"SuperNode": psutil.Process(one), "SuperExec": superexec_of(one)}
        waiting = {name: process.memory_info().rss for name, process in waiting.items()}
    peaks = {name: fleet.peaks(name) for name in BUDGETS_MIB}
    return Left(output, model, digits, data, peaks, waiting, (folder / "run.log").read_text())


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
