"""The memory budget under a hard limit that the kernel enforces, set from outside (tools/benchmarks/limited.py).

Which kind of limit it was is printed: `bash tools/test.sh tests/budget/test_hard_limit.py -s`.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.helpers.budgets import train_arguments
from tests.helpers.commands import Finished
from tests.helpers.paths import PROJECT
from tests.helpers.runs import step_losses

MIB = 1 << 20


def run_limited(limit_bytes, *command) -> tuple[Finished, dict]:
    """The command's end, and the report of tools/benchmarks/limited.py."""
    launcher = [
        sys.executable,
        "-S",
        "-E",
        str(PROJECT / "tools" / "benchmarks" / "limited.py"),
        str(limit_bytes),
        "--",
    ]
    done = subprocess.run(
        [*launcher, *map(str, command)], capture_output=True, text=True, cwd=PROJECT, timeout=300, check=True
    )
    *lines, last = done.stderr.splitlines()
    report = json.loads(last)
    print(report)
    return Finished(report["returncode"], done.stdout, "\n".join(lines)), report


def edge_s2a(*arguments) -> list:
    return [sys.executable, "-m", "edge_s2a", *arguments]


def train_command(*arguments) -> list:
    return edge_s2a(*train_arguments(*arguments))


def test_the_limit_is_hard():
    """Or the others would prove nothing: twice the limit cannot be had."""
    done, _ = run_limited(100 * MIB, sys.executable, "-c", "print(len(bytearray(b'x') * (200 << 20)))")
    assert done.returncode != 0
    done, _ = run_limited(100 * MIB, sys.executable, "-c", "print(len(bytearray(b'x') * (50 << 20)))")
    assert done.returncode == 0


def test_training_finishes_under_a_limit_of_the_smallest_budget(deit_artifact, photo_folder, tmp_path, floor):
    budget = floor
    done, report = run_limited(budget, *train_command(deit_artifact, photo_folder, tmp_path / "run", budget))
    assert done.returncode == 0, done.stderr
    assert report["peak_rss_bytes"] <= budget
    assert "scarce" not in done.stderr


def test_a_budget_one_step_under_the_floor_is_refused_before_step_0(deit_artifact, photo_folder, tmp_path, floor):
    """A step is 3 MiB: the smallest budget is in whole MiB and has one to spare, and what is measured varies."""
    budget = floor - 3 * MIB
    done, _ = run_limited(budget, *train_command(deit_artifact, photo_folder, tmp_path / "run", budget))
    assert done.returncode == 3
    assert "cannot be met" in done.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.fixture(scope="module")
def large_photos(tmp_path_factory):
    """Five classes of one 12-megapixel JPEG each: upright, turned, grey, CMYK, progressive."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    for label, kind in enumerate(("upright", "turned", "grey", "cmyk", "progressive")):
        (folder / str(label)).mkdir()
        image = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).resize((4000, 3000))
        image = image.convert({"grey": "L", "cmyk": "CMYK"}.get(kind, "RGB"))
        exif = Image.Exif()
        exif[0x0112] = 6 if kind == "turned" else 1
        image.save(folder / str(label) / f"{kind}.jpg", exif=exif, progressive=kind == "progressive")
    return folder


@pytest.mark.parametrize(("above_floor_mib", "skipped"), [(0, ["progressive.jpg"]), (200, [])])
def test_12_megapixel_photos_are_trained_on_and_judged_within_the_budget(
    deit_artifact, large_photos, tmp_path, floor, above_floor_mib, skipped
):
    """All of a progressive JPEG is in memory at its full size, 36 MB here: where that does not fit it is skipped."""
    budget = floor + above_floor_mib * MIB
    done, report = run_limited(budget, *train_command(deit_artifact, large_photos, tmp_path / "run", budget))
    assert done.returncode == 0, done.stderr
    assert report["peak_rss_bytes"] <= budget
    assert [name.rsplit("/", 1)[-1] for name in done.json["skipped"]] == skipped

    adapter = ["--adapter", tmp_path / "run" / "best.safetensors", "--memory-budget", budget, "--json"]
    judged, report = run_limited(budget, *edge_s2a("eval", deit_artifact, "--data", large_photos, *adapter))
    assert judged.json["count"] == 5 - len(skipped)
    assert report["peak_rss_bytes"] <= budget
    photos = [large_photos / "0" / "upright.jpg", large_photos / "1" / "turned.jpg"]
    predicted, report = run_limited(budget, *edge_s2a("predict", deit_artifact, *photos, *adapter))
    assert len(predicted.json["results"]) == 2
    assert report["peak_rss_bytes"] <= budget


def test_training_steps_down_when_another_process_takes_the_memory(deit_artifact, photo_folder, tmp_path, floor):
    """In one cgroup with a process that takes all but 8 MiB after three steps of eight: training goes on in smaller
    micro-batches from where it was, and comes to the same losses."""
    budget = floor + 90 * MIB
    command = train_command(deit_artifact, photo_folder, tmp_path / "calm", budget, "--batch-size", 5)
    calm, report = run_limited(budget, *command)
    if report["mechanism"] == "RLIMIT_DATA":
        pytest.skip("this machine lets us make no cgroup, and RLIMIT_DATA is not shared between processes")
    command = train_command(deit_artifact, photo_folder, tmp_path / "scarce", budget, "--batch-size", 5)
    hog = [sys.executable, PROJECT / "tests" / "budget" / "hog.py", tmp_path / "scarce" / "metrics.jsonl", 3, "--"]
    done, report = run_limited(budget + 100 * MIB, *hog, *command)
    assert done.returncode == 0, done.stderr
    assert "memory has become scarce" in done.stderr
    assert done.json["micro_batch_size"] < calm.json["micro_batch_size"]
    assert done.json["budget_bytes"] < budget
    # float32 sums in another order, and codes that tip into the next level after an update.
    np.testing.assert_allclose(step_losses(tmp_path / "scarce"), step_losses(tmp_path / "calm"), rtol=2e-3)
