"""What `train` leaves for those who look at a run: docs/RUN.md."""

import json
import shutil

import numpy as np
import pytest

from tests.helpers.commands import run_command
from tests.helpers.images import write_images
from tests.helpers.runs import metrics_of

OPTIONS = ["--memory-budget", "300MiB", "--batch-size", 8, "--lr", 5e-3, "--threads", 1]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def train(artifact, data, run, *options):
    return run_command("train", artifact, "--data", data, "--output", run, *OPTIONS, *options, "--json")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Colours, with a blue image among the red ones of the validation set, which no model takes for red."""
    folder = tmp_path_factory.mktemp("odd")
    write_images(folder / "train", 10, seed=0)
    write_images(folder / "val", 4, seed=1)
    shutil.copy(folder / "val" / "blue" / "000.png", folder / "val" / "red" / "odd.png")
    return folder


@pytest.fixture(scope="module")
def finished_run(small_artifact, data, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    done = train(small_artifact, data, run, "--epochs", 3)
    assert done.returncode == 0, done.stderr
    return run


def test_a_run_says_what_it_is_when_it_starts(finished_run, small_artifact, data):
    facts = json.loads((finished_run / "run.json").read_text())
    inspected = run_command("inspect", small_artifact, "--json").json
    for name in ("model", "adapter", "saved_bits", "trainable_parameters", "total_parameters", "file_bytes"):
        assert facts["artifact"][name] == inspected[name]
    assert facts["settings"]["data"] == str(data)
    assert facts["settings"]["clip_norm"] is None  # never
    assert facts["settings"]["threads"] == 1
    assert facts["data"]["val"] == {"where": str(data / "val"), "images": 13}
    assert facts["classes"] == ["blue", "green", "red"]
    assert facts["steps"] == 3 * 4
    plan, summary = facts["plan"], json.loads((finished_run / "summary.json").read_text())
    assert plan["budget_bytes"] == 300 << 20
    assert plan["predicted_peak_bytes"] == summary["predicted_peak_bytes"]
    assert sum(plan["parts"].values()) <= plan["predicted_peak_bytes"]
    assert set(facts["versions"]) == {"edge-s2a", "onnxruntime", "python", "numpy", "pillow", "psutil"}


def test_the_last_validation_leaves_its_predictions(finished_run):
    lines = lines_of(finished_run / "predictions.jsonl")
    assert len(lines) == 13
    right = sum(line["label"] == line["predicted"] for line in lines)
    assert right / 13 == pytest.approx(metrics_of(finished_run)[-1]["val_accuracy"])
    (odd,) = [line for line in lines if line["image"] == "red/odd.png"]
    assert odd["label"] == "red"
    assert odd["predicted"] == "blue"
    assert 1 / 3 < odd["probability"] <= 1


def test_a_resumed_run_says_from_where(finished_run, small_artifact, data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    assert train(small_artifact, data, run, "--epochs", 3, "--resume").returncode == 0
    assert json.loads((run / "run.json").read_text())["resumed_at_step"] == 12
    assert json.loads((finished_run / "run.json").read_text())["resumed_at_step"] == 0


def test_a_new_run_in_a_used_folder_forgets_how_the_old_one_ended(finished_run, small_artifact, data, tmp_path):
    """Its training images are unreadable, so that it ends before a validation."""
    run, torn = tmp_path / "run", tmp_path / "torn"
    shutil.copytree(finished_run, run)
    for name in ("blue", "green", "red"):
        (torn / name).mkdir(parents=True)
        (torn / name / "torn.png").write_bytes(b"\x89PNG")
    done = train(small_artifact, torn, run, "--epochs", 1)
    assert done.returncode == 2, done.stderr
    assert (run / "run.json").exists()
    assert not (run / "summary.json").exists()
    assert not (run / "predictions.jsonl").exists()


def test_a_run_of_arrays_names_its_images_by_number(small_artifact, tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 32, 32, 3), np.uint8), np.arange(12) % 3
    np.savez(tmp_path / "val.npz", images=images, labels=labels)
    data = tmp_path / "val.npz"
    done = train(small_artifact, data, tmp_path / "run", "--epochs", 1, "--val-data", data)
    assert done.returncode == 0, done.stderr
    assert [line["image"] for line in lines_of(tmp_path / "run" / "predictions.jsonl")] == [str(n) for n in range(12)]
