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
    model = write_demo_artifact(folder / "model.s2a", adapter="bias+lowrank")
    for name in ("0", "1"):
        (folder / "broken-data" / name).mkdir(parents=True)
        (folder / "broken-data" / name / "0.png").write_text("no image")
    devices = {name: Device(model, folder / f"{name}-data", budget) for name, budget in BUDGETS_MIB.items()}
    devices["stranger"] = Device(relabelled(model, folder / "other.s2a"), digits, BUDGETS_MIB["stranger"])
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


def share_out(digits: Path, folder: Path) -> dict[str, Path]:
    """Gives each image to one of the devices that have its digit."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for image in sorted((digits / split).glob("*/*.png")):
            name = rng.choice([name for name, own in DIGITS.items() if int(image.parent.name) in own])
            place = folder / f"{name}-data" / split / image.parent.name / image.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, place)
    return {name: folder / f"{name}-data" for name in DIGITS}


def learned(left: Left, python: Path, data: Path, output: Path) -> Path:
    """The knowledge file of one device that has these images."""
    done = run_command(
        "learn", left.artifact, "--data", data, "--output", output, "--codes", "int8", "--threads", 1, "--quiet",
        python=python, cwd=output.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return output


def accuracy(left: Left, python: Path, knowledge: Path, digits: set[int], folder: Path) -> float:
    """Share of all digits for validation that are told right by who knows only `digits`."""
    for digit in digits:
        (folder / "val" / str(digit)).parent.mkdir(parents=True, exist_ok=True)
        (folder / "val" / str(digit)).symlink_to(left.digits / "val" / str(digit))
    done = run_command(
        "eval", left.artifact, "--adapter", knowledge, "--data", folder, "--threads", 1, "--json", python=python,
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    known, everything = (len(list(data.glob("val/*/*.png"))) for data in (folder, left.digits))
    return done.json["accuracy"] * known / everything


@pytest.fixture(scope="module")
def at_once(left, fleet_python, tmp_path_factory) -> Path:
    """What one device learns that has all the images."""
    return learned(left, fleet_python, left.digits, tmp_path_factory.mktemp("once") / "all.safetensors")


@pytest.mark.parametrize("send", SENDS)
def test_the_fleet_knows_what_one_device_would_that_has_all_images(left, at_once, send):
    """A backbone's output differs in its last bits between batches, and a code by a step with it, rarely: 1e-3."""
    manifest = Artifact(left.artifact).manifest
    fleet, alone = (load_knowledge(path, manifest) for path in (left.outputs[send] / "knowledge.safetensors", at_once))
    assert fleet.state.classes == alone.state.classes == [str(digit) for digit in range(10)]
    assert fleet.state.counts.tolist() == alone.state.counts.tolist()
    assert (fleet.state.folded is None) == (send == "auto")
    expected = alone.head
    if send == "sums":
        images = len(alone.state.kept.labels)
        form = choose_form(images, None, alone.state.layout, 10, 1 << 30)
        expected = solve(alone.state, form, ridge=fleet.head.ridge)
    assert fleet.head.ridge == expected.ridge
    distance = np.abs(fleet.head.weight - expected.weight).max() / np.abs(expected.weight).max()
    print(f"\n{send}: weights differ by {distance:.1e} of the largest")
    assert distance < 1e-3


def test_the_fleet_beats_each_device_alone(left, at_once, fleet_python, tmp_path):
    everything = set(range(10))
    fleet = {
        send: accuracy(left, fleet_python, output / "knowledge.safetensors", everything, tmp_path / send)
        for send, output in left.outputs.items()
    }
    once = accuracy(left, fleet_python, at_once, everything, tmp_path / "once")
    alone = {}
    for name, own in left.data.items():
        knowledge = learned(left, fleet_python, own, tmp_path / f"{name}.safetensors")
        alone[name] = accuracy(left, fleet_python, knowledge, DIGITS[name], tmp_path / name)
    print(f"\naccuracy on all digits: fleet {fleet}, all images at once {once:.4f}, alone {alone}")
    assert abs(fleet["auto"] - once) < 0.002
    assert min(fleet.values()) > max(alone.values()) + 0.3


@pytest.mark.parametrize("send", SENDS)
def test_a_device_that_cannot_take_part_is_left_out_in_a_sentence(left, send):
    lines = notes(left.outputs[send])
    assert len(of_kind(lines, "learn")) == 3
    errors = {line["error"] for line in lines if line["kind"] == "learn" and "error" in line}
    assert len(errors) == 2
    for part in ("copy the server's artifact", "no training image could be read"):
        (error,) = (error for error in errors if part in error)
        assert error in left.logs[send]


@pytest.mark.parametrize("send", SENDS)
def test_devices_evaluate_the_classifier_of_all(left, send):
    lines = notes(left.outputs[send])
    evaluated, (fleet,) = of_kind(lines, "evaluate"), of_kind(lines, "fleet")
    images = [line["num-examples"] for line in evaluated]
    assert sum(images) == sum(1 for _ in (left.digits / "val").glob("*/*.png"))
    mean = np.average([line["accuracy"] for line in evaluated], weights=images)
    assert fleet["accuracy"] == pytest.approx(mean)
    print(
        f"\n{send}: {fleet['images']} images, {fleet['form']}, lambda {fleet['ridge']:.3g}, accuracy "
        f"{fleet['accuracy']:.4f}, left out {fleet.get('left-out-accuracy')}, {fleet['seconds']:.1f} s of "
        f"{left.seconds[send]:.1f} s, server {fleet['peak-bytes'] / MIB:.1f} MiB"
    )


@pytest.mark.parametrize("send", SENDS)
def test_little_travels(left, send):
    manifest = Artifact(left.artifact).manifest
    for line in of_kind(notes(left.outputs[send]), "learn"):
        print(f"\n{send}: {line['bytes']} bytes of {line['images']} images, {line['seconds']:.1f} s", end="")
        values = line["images"] * manifest.tap_count
        # Codes of one byte and their ranges; or fewer products of eight bytes, and the classes' sums.
        least, most = (1, 1.3) if send == "auto" else (5, 8.5)
        assert least * values < line["bytes"] < most * values
    print()


def test_every_device_keeps_its_budget(left):
    for name, peaks in left.peaks.items():
        print(f"\n{name}: {max(peaks) / MIB:.1f} of {BUDGETS_MIB[name]} MiB in {len(peaks)} processes", end="")
        assert len(peaks) == 2 * len(SENDS)
        assert max(peaks) <= BUDGETS_MIB[name] * MIB
    print()
