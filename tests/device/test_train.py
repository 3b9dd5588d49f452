"""`train`, `eval` and `predict` as a user runs them."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from edge_s2a.artifact import tensors
from tests.helpers.commands import run_command
from tests.helpers.paths import PROJECT
from tests.helpers.runs import metrics_of
from tests.helpers.systems import not_on_windows

OPTIONS = ["--memory-budget", "300MiB", "--batch-size", 8, "--lr", 5e-3, "--threads", 1]


def adapter_of(run):
    return tensors.decode((run / "adapter.safetensors").read_bytes(), "adapter")


@pytest.fixture(scope="module")
def finished_run(small_artifact, image_folder, tmp_path_factory):
    """(RUN folder, summary) of four epochs on three colours."""
    run = tmp_path_factory.mktemp("run") / "deep" / "run"
    done = run_command(
        "train", small_artifact, "--data", image_folder, "--output", run, "--epochs", 4, *OPTIONS, "--json"
    )
    assert done.returncode == 0, done.stderr
    return run, done.json


def test_training_learns_and_says_so(finished_run):
    run, summary = finished_run
    assert summary["val_accuracy"] >= 0.9
    assert summary == json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 4 * 6  # 42 images in batches of 8, the last of 2
    assert summary["epochs"] == 4
    assert summary["budget_bytes"] == 300 << 20
    assert summary["skipped_images"] == 0
    assert 0 < summary["trainable_parameters"] < summary["total_parameters"] / 10


def test_metrics_are_json_lines(finished_run):
    run, summary = finished_run
    lines = metrics_of(run)
    steps = [line for line in lines if line["kind"] == "step"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert [line["step"] for line in steps] == list(range(1, 25))
    assert len(epochs) == 4
    assert epochs[-1]["val_accuracy"] == summary["val_accuracy"]
    # The kernel keeps the two counts by page batches of each thread.
    assert max(line["rss_bytes"] for line in steps) <= summary["peak_rss_bytes"] + (1 << 20)
    assert steps[0]["lr"] < steps[5]["lr"] == pytest.approx(5e-3)
    assert steps[-1]["lr"] < 1e-4


def test_eval_of_the_best_adapter_agrees_with_the_run(finished_run, small_artifact, image_folder):
    run, summary = finished_run
    done = run_command("eval", small_artifact, "--adapter", run / "best.safetensors", "--data", image_folder, "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["accuracy"] == pytest.approx(summary["best_accuracy"])
    assert done.json["count"] == 12
    assert done.json["loss"] > 0


def test_predict_names_label_and_probability(finished_run, small_artifact, image_folder):
    run, _ = finished_run
    images = sorted((image_folder / "val" / "red").iterdir())
    arguments = ["predict", small_artifact, "--adapter", run / "best.safetensors", *images, "--top", 2]
    lines = [line.split("\t") for line in run_command(*arguments).stdout.splitlines()]
    assert [line[0] for line in lines[::2]] == [str(image) for image in images]
    assert sum(line[1] == "red" for line in lines[::2]) >= 3
    assert all(1 >= float(a[2]) >= float(b[2]) >= 0 for a, b in zip(lines[::2], lines[1::2], strict=True))
    results = run_command(*arguments, "--json").json["results"]
    assert [result["predictions"][0]["label"] for result in results] == [line[1] for line in lines[::2]]


def test_sgd_without_warm_up_trains(small_artifact, image_folder, tmp_path):
    done = run_command(
        "train", small_artifact, "--data", image_folder, "--output", tmp_path, "--epochs", 4, "--optimizer", "sgd",
        "--warmup-epochs", 0, "--label-smoothing", 0, "--augment", "crop", *OPTIONS[:4], "--lr", 0.01, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.json["val_accuracy"] >= 0.6


@not_on_windows
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_resumes_to_the_same_adapter(finished_run, small_artifact, image_folder, tmp_path, number):
    run = tmp_path / "run"
    arguments = ["train", small_artifact, "--data", image_folder, "--output", run, "--epochs", 4, *OPTIONS]
    command = [sys.executable, "-m", "edge_s2a", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    metrics = run / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "--resume continues" in stderr
    done_steps = metrics.read_text().count('"kind": "step"')
    assert 3 <= done_steps < 24

    done = run_command(*arguments, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["steps"] == 24
    expected, _ = adapter_of(finished_run[0])
    resumed, _ = adapter_of(run)
    for name, array in expected.items():
        np.testing.assert_array_equal(resumed[name], array)


def test_resuming_a_finished_run_changes_nothing(finished_run, small_artifact, image_folder):
    run, summary = finished_run
    before = (run / "adapter.safetensors").read_bytes()
    done = run_command(
        "train", small_artifact, "--data", image_folder, "--output", run, "--epochs", 4, *OPTIONS, "--resume", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert (run / "adapter.safetensors").read_bytes() == before
    assert done.json["val_accuracy"] == summary["val_accuracy"]


def test_check_replays_the_golden_step(small_artifact):
    done = run_command("check", small_artifact, "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["ok"] is True
    assert set(done.json["errors"]) == {"taps", "loss", "logits", "gradients", "worst_gradient", "update"}
    assert 0 < done.json["max_relative_error"] < 1e-3


def test_inspect_tells_what_is_inside(small_artifact):
    result = run_command("inspect", small_artifact, "--json").json
    assert result["model"] == "vit_tiny_patch16_224"
    assert result["adapter"] == "bias"
    assert (result["saved_bits"], result["weight_format"], result["format_version"]) == ("4", "int8", 7)
    assert result["file_bytes"] == small_artifact.stat().st_size
    assert result["labels"] == ["blue", "green", "red"]
    assert "4 bits" in run_command("inspect", small_artifact).stdout


def test_fewer_saved_bits_save_fewer_bytes(small_artifact, tmp_path):
    from tests.helpers.artifacts import pack

    saved = run_command("inspect", small_artifact, "--json").json["saved_bytes_per_image"]
    exact = run_command("inspect", pack(tmp_path / "exact.s2a", saved_bits="32"), "--json").json
    assert saved < exact["saved_bytes_per_image"] / 5
