"""Training defends itself against numbers that are not finite, and against a rate that is too high."""

import math
import subprocess
import sys

import numpy as np
import pytest

from edge_s2a.device.optim.clipping import clip, gradient_norm
from edge_s2a.device.optim.optimizer import OPTIMIZERS, forget
from edge_s2a.device.policy.divergence import has_diverged
from tests.helpers.commands import run_command
from tests.helpers.paths import PROJECT
from tests.helpers.runs import metrics_of

# Runs the command line with an engine whose results for some steps are not numbers, as a failing device's may be.
WITH_BAD_STEPS = """
import itertools, sys
import edge_s2a.device.engine.onnxruntime as session
from edge_s2a.cli.main import main
what, bad, *arguments = sys.argv[1:]
bad = eval(bad)
good_step, numbers = session.OnnxRuntimeEngine.training_step, itertools.count(1)
def step(engine, image, target):
    result = good_step(engine, image, target)
    if next(numbers) in bad:
        if what == "loss":
            return result._replace(loss=float("nan"))
        next(iter(result.gradients.values())).flat[0] = float("inf")
    return result
session.OnnxRuntimeEngine.training_step = step
sys.exit(main(arguments))
"""
OPTIONS = ["--memory-budget", "400MiB", "--batch-size", "14", "--threads", "1"]
STEPS = 3  # of an epoch


def train(artifact, images, run, what, bad, *more):
    arguments = ["train", artifact, "--data", images, "--output", run, *OPTIONS, *more]
    command = [sys.executable, "-c", WITH_BAD_STEPS, what, bad, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)


def kinds(run):
    return [line["kind"] for line in metrics_of(run)]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped(small_artifact, image_folder, tmp_path, what):
    """The first runs of the engine set the head; the bad one is in the second epoch."""
    run = tmp_path / "run"
    done = train(small_artifact, image_folder, run, what, "{9}", "--epochs", "3")
    assert done.returncode == 0, done.stderr
    assert kinds(run).count("skipped") == 1
    assert kinds(run).count("step") == 3 * STEPS - 1
    assert "restored" not in kinds(run)
    assert all(math.isfinite(line["loss"]) for line in metrics_of(run) if line["kind"] == "step")


def test_three_in_a_row_go_back_to_the_best_adapter_at_half_the_rate(small_artifact, image_folder, tmp_path):
    calm, run = tmp_path / "calm", tmp_path / "run"
    for folder, bad in ((calm, "{}"), (run, "{9, 10, 11}")):
        done = train(small_artifact, image_folder, folder, "gradient", bad, "--epochs", "4", "--lr", "1e-3")
        assert done.returncode == 0, done.stderr
    assert "continuing from the best adapter with 0.5 of the learning rate" in done.stderr
    assert [line["rate_share"] for line in metrics_of(run) if line["kind"] == "restored"] == [0.5]
    rates = [
        {line["step"]: line["lr"] for line in metrics_of(folder) if line["kind"] == "step"} for folder in (calm, run)
    ]
    last = max(rates[0])
    assert rates[1][last] == pytest.approx(0.5 * rates[0][last])


def test_a_run_that_goes_on_failing_ends_with_one_error_and_its_best_adapter(small_artifact, image_folder, tmp_path):
    run = tmp_path / "run"
    done = train(small_artifact, image_folder, run, "gradient", "range(9, 10**6)", "--epochs", "20")
    assert done.returncode == 2
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("edge-s2a train: loss or gradient were not finite 3 steps in a row, even at 0.000976562")
    assert "Traceback" not in done.stderr
    judged = run_command(
        "eval", small_artifact, "--adapter", run / "best.safetensors", "--data", image_folder, "--json"
    )
    assert judged.json["accuracy"] >= 1 / 3


def test_a_rate_that_is_far_too_high_ends_no_worse_than_it_began(small_artifact, image_folder, tmp_path):
    run = tmp_path / "run"
    done = run_command(
        "train", small_artifact, "--data", image_folder, "--output", run, *OPTIONS, "--optimizer", "sgd", "--lr", "1e5",
        "--epochs", "5", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.json["rate_share"] < 1
    assert done.json["best_accuracy"] is None
    assert "restored" in kinds(run)
    judged = run_command(
        "eval", small_artifact, "--adapter", run / "best.safetensors", "--data", image_folder, "--json"
    )
    assert judged.json["accuracy"] >= 0.9  # that of the class means, with which the head starts


def test_a_finished_run_is_resumed_with_its_lower_rate(small_artifact, image_folder, tmp_path):
    """The share of the rate, and how much the optimizer's state has seen, are in the checkpoint: bit for bit."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    bad = "{9, 10, 11}"
    assert train(small_artifact, image_folder, whole, "loss", bad, "--epochs", "4").returncode == 0
    # Stopped after the step that went back: the engine that goes on has no bad steps.
    stopping = WITH_BAD_STEPS.replace(
        "sys.exit(main", "import edge_s2a.device.policy.divergence as d, signal, os\n"
        "back = d.go_back\n"
        "def go_back(loop, reason):\n    back(loop, reason)\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "d.go_back = go_back\nsys.exit(main",
    )  # fmt: skip
    arguments = ["train", small_artifact, "--data", image_folder, "--output", parts, *OPTIONS, "--epochs", "4"]
    command = [sys.executable, "-c", stopping, "loss", bad, *map(str, arguments)]
    assert subprocess.run(command, cwd=PROJECT, capture_output=True, check=False).returncode == 130
    assert run_command(*arguments, "--resume").returncode == 0
    assert (parts / "adapter.safetensors").read_bytes() == (whole / "adapter.safetensors").read_bytes()


def test_clipping_is_torchs():
    import torch

    rng = np.random.default_rng(0)
    gradients = {str(i): rng.standard_normal((5, 7)).astype(np.float32) for i in range(3)}
    parameters = [torch.nn.Parameter(torch.zeros(5, 7)) for _ in gradients]
    for parameter, gradient in zip(parameters, gradients.values(), strict=True):
        parameter.grad = torch.from_numpy(gradient.copy())
    norm = gradient_norm(gradients)
    assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(parameters, 0.5)), rel=1e-6)
    clip(gradients, norm, 0.5)
    for parameter, gradient in zip(parameters, gradients.values(), strict=True):
        np.testing.assert_allclose(gradient, parameter.grad.numpy(), rtol=1e-5)  # torch adds 1e-6 to the norm
    before = {name: array.copy() for name, array in gradients.items()}
    clip(gradients, gradient_norm(gradients), math.inf)
    for name, array in gradients.items():
        np.testing.assert_array_equal(array, before[name])


def test_a_norm_beyond_float32_is_found():
    assert gradient_norm({"a": np.full(4, 3e38, np.float32)}) == pytest.approx(6e38, rel=1e-6)
    assert math.isinf(gradient_norm({"a": np.array([np.inf], np.float32)}))
    assert math.isnan(gradient_norm({"a": np.array([np.nan], np.float32)}))


def test_only_a_run_that_was_better_than_guessing_has_diverged():
    assert has_diverged(train_loss=1.7, lowest_loss=0.9, classes=5)
    assert not has_diverged(train_loss=1.2, lowest_loss=0.9, classes=5)
    assert not has_diverged(train_loss=2.5, lowest_loss=1.9, classes=5)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_that_forgot_steps_as_a_new_one(kind):
    rng = np.random.default_rng(0)
    used, new = ({"w": np.ones((3, 3), np.float32)} for _ in range(2))
    optimizers = [OPTIMIZERS[kind](parameters, 0.01) for parameters in (used, new)]
    optimizers[0].step({"w": rng.standard_normal((3, 3)).astype(np.float32)}, 0.1)
    used["w"].fill(1)
    forget(optimizers[0])
    gradient = {"w": rng.standard_normal((3, 3)).astype(np.float32)}
    for optimizer in optimizers:
        optimizer.step(gradient, 0.1)
    np.testing.assert_array_equal(used["w"], new["w"])


def test_clip_norm_must_be_positive(small_artifact, image_folder, tmp_path):
    done = run_command(
        "train", small_artifact, "--data", image_folder, "--output", tmp_path / "run", *OPTIONS, "--clip-norm", "0"
    )
    assert done.returncode == 2
    assert "0 is not a positive number" in done.stderr
