"""A fleet that learns in one pass: a SuperLink and five SuperNodes. Three have images of some digits each, one has
another artifact, and one has no image that can be read."""

import dataclasses
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.knowledge import load_knowledge
from edge_s2a.device.closed_form.form import choose_form
from edge_s2a.device.closed_form.solve import solve
from tests.fleet.processes import Device, notes, of_kind, relabelled, running, wait_for, write_demo_artifact
from tests.helpers.commands import run_command

pytestmark = pytest.mark.fleet

MIB = 1 << 20
DIGITS = {"one": {0, 1, 2, 3}, "two": {3, 4, 5, 6}, "three": {6, 7, 8, 9}}
BUDGETS_MIB = {"one": 186, "two": 192, "three": 224, "stranger": 224, "broken": 224}
SENDS = ("auto", "sums")


@dataclasses.dataclass
class Left:
    """What the runs have left."""

    artifact: Path
    digits: Path
    data: dict[str, Path]
    outputs: dict[str, Path]  # by what was sent
    logs: dict[str, str]
    seconds: dict[str, float]  # of the whole command
    peaks: dict[str, list[int]]


@pytest.fixture(scope="module")
def left(fleet_python, tmp_path_factory) -> Left:
    from edge_s2a.quickstart import write_digits

    folder = tmp_path_factory.mktemp("learning-fleet")
    digits = folder / "digits"
    write_digits(digits)
    data = share_out(digits, folder)
    model = write_demo_artifact(folder / "model.s2a", adapter="none", num_classes=None)
    for name in ("0", "1"):
        (folder / "broken-data" / name).mkdir(parents=True)
        (folder / "broken-data" / name / "0.png").write_text("no image")
    devices = {name: Device(model, folder / f"{name}-data", budget) for name, budget in BUDGETS_MIB.items()}
    devices["stranger"] = Device(other_model(folder / "other.s2a"), digits, BUDGETS_MIB["stranger"])
    outputs, logs, seconds = {}, {}, {}
    with running(folder, fleet_python, devices) as fleet:
        for send in SENDS:
            outputs[send] = folder / f"output-{send}"
            start_s = time.monotonic()
            run = fleet.run(
                f"run-{send}",
                f'method="learn" send="{send}" artifact="{model}" output="{outputs[send]}" min-nodes=5',
            )
            wait_for(lambda run=run: run.poll() is not None, folder)
            logs[send] = (folder / f"run-{send}.log").read_text()
            assert run.returncode == 0, logs[send]
            seconds[send] = time.monotonic() - start_s
        peaks = {name: fleet.peaks(name) for name in devices}
    return Left(model, digits, data, outputs, logs, seconds, peaks)
