"""The budget is kept whatever images there are: thin ones, and very many."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from tests.helpers.budgets import OPTIONS, train_arguments
from tests.helpers.commands import measure, run_command, run_measured

MIB = 1 << 20


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_thin_images_are_trained_on_within_it(deit_artifact, photo_folder, tmp_path, floor, augment):
    """Resized whole to 248 pixels, one of 3000 x 16 would take 44 MiB, and one of 4 x 20,000 a GiB."""
    data = tmp_path / "data"
    shutil.copytree(photo_folder, data)
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate([(3000, 16), (16, 3000), (20_000, 4), (4, 8_000), (9000, 100)]):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(data / str(number) / "thin.png")
    budget = floor + 20 * MIB
    done, peak = run_measured(*train_arguments(deit_artifact, data, tmp_path / "run", budget, "--augment", augment))
    assert done.returncode == 0, done.stderr
    assert done.json["skipped"] == {}
    assert done.json["excess_bytes"] == 0
    assert peak <= budget


def test_an_image_that_cannot_fit_is_skipped_with_the_reason(deit_artifact, photo_folder, tmp_path, floor):
    data = tmp_path / "data"
    shutil.copytree(photo_folder, data)
    Image.new("RGB", (9000, 9000)).save(data / "0" / "large.png")
    done, peak = run_measured(*train_arguments(deit_artifact, data, tmp_path / "run", floor + 20 * MIB))
    assert done.returncode == 0, done.stderr
    ((name, reason),) = done.json["skipped"].items()
    assert name.endswith("0/large.png")
    assert reason.startswith("decoding and resizing its 9000 x 9000 pixels takes ")
    assert peak <= floor + 20 * MIB


FEW_STEPS = """
import json, sys
import edge_s2a
plans = []
def stop(line):
    if line["step"] == 3:
        raise KeyboardInterrupt
try:
    edge_s2a.train(*sys.argv[1:4], memory_budget=int(sys.argv[4]), threads=2, epochs=1, on_step=stop)
except KeyboardInterrupt:
    pass
"""


@pytest.mark.parametrize("kind", ["files", "npz"])
def test_very_many_images_are_counted(deit_artifact, photo_folder, tmp_path, floor, kind):
    """50,000 files, or as many images in an array of 147 MiB, in 8 MiB more than an artifact needs without images."""
    data = tmp_path / "data"
    if kind == "files":
        for label in range(5):
            (data / str(label)).mkdir(parents=True)
            for number in range(10_000):
                os.link(photo_folder / str(label) / f"{number % 8}.jpg", data / str(label) / f"IMG_{number:08d}.jpg")
    else:
        data = tmp_path / "data.npz"
        labels = np.arange(50_000) % 5
        np.savez(data, images=np.repeat(labels.astype(np.uint8), 32 * 32 * 3).reshape(-1, 32, 32, 3), labels=labels)
    budget = floor + 8 * MIB
    done, peak = measure(sys.executable, "-c", FEW_STEPS, deit_artifact, data, tmp_path / "run", budget)
    assert done.returncode == 0, done.stderr
    plan = json.loads((tmp_path / "run" / "run.json").read_text())["plan"]
    # Eight bytes an image for an order, six for label and place, and a path of 18 and its end.
    assert plan["parts"]["image index"] == 50_000 * (14 + (19 if kind == "files" else 0))
    print(f"50,000 {kind}: budget {budget / MIB:.1f} MiB, predicted {plan['predicted_peak_bytes'] / MIB:.1f}, "
          f"measured {peak / MIB:.1f} MiB")  # fmt: skip
    assert peak <= budget
    assert plan["predicted_peak_bytes"] <= budget


def test_a_million_images_are_in_the_plan(deit_artifact):
    def plan(*options):
        return run_command("plan", deit_artifact, "--memory-budget", "1GiB", *OPTIONS, *options, "--json").json

    few, many = plan(), plan("--images", 1_000_000)
    assert many["parts"]["image index"] == 56_000_000
    assert 52 * MIB < many["minimum_budget_bytes"] - few["minimum_budget_bytes"] < 56 * MIB
    learned = plan("--learn", 1_000_000)
    assert learned["parts"]["image index"] == 56_000_000
