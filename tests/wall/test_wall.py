"""The wall between host and device: environments that hold the wheel and the device's dependencies alone."""

import json
import subprocess
import sys

import pytest

from edge_s2a.version import __version__
from tests.helpers.commands import assert_refused, run_command
from tests.helpers.images import write_images
from tests.helpers.sample_knowledge import read_into, sample_recent, sample_record, write_knowledge
from tests.helpers.sample_run import write_sample

DEVICE_PACKAGES = {"edge-s2a", "numpy", "onnxruntime", "pillow", "psutil"}
HOST_MODULES = ["torch", "timm", "torchvision", "onnx", "sklearn", "safetensors"]
NOT_THERE = [*HOST_MODULES, "matplotlib"]
# Host packages, the report, which is an extra, and the module that starts the command when it is imported.
NOT_ON_A_DEVICE = {"edge_s2a.host", "edge_s2a.exporting", "edge_s2a.quickstart", "edge_s2a.report", "edge_s2a.__main__"}

IMPORT_EVERYTHING = f"""
import importlib, json, pkgutil, sys
import edge_s2a
for top in pkgutil.iter_modules(edge_s2a.__path__, "edge_s2a."):
    if top.name not in {NOT_ON_A_DEVICE}:
        module = importlib.import_module(top.name)
        for entry in pkgutil.walk_packages(getattr(module, "__path__", []), top.name + "."):
            importlib.import_module(entry.name)
print(json.dumps([edge_s2a.__file__, [m for m in {NOT_THERE} if m in sys.modules], len(sys.modules)]))
"""

WATCH = """
import sys
from edge_s2a.cli.main import main
main(sys.argv[1:])
print([name for name in ("numpy", "onnxruntime", "PIL", "psutil", "matplotlib") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wall")
    write_images(folder / "train", 8, seed=0)
    write_images(folder / "val", 3, seed=1)
    return folder


def fine_tune(python, artifact, data, run, cwd):
    """check, plan, learn, train, eval and predict; returns the training's summary."""
    check = run_command("check", artifact, "--json", python=python, cwd=cwd)
    assert check.returncode == 0, check.stderr
    assert check.json["ok"] is True
    plan = run_command("plan", artifact, "--memory-budget", "300MiB", "--json", python=python, cwd=cwd)
    assert plan.json["feasible"] is True
    knowledge = cwd / "knowledge.safetensors"
    learned = run_command(
        "learn", artifact, "--data", data, "--output", knowledge, "--memory-budget", "300MiB", "--threads", 1, "--json",
        python=python, cwd=cwd,
    )  # fmt: skip
    assert learned.returncode == 0, learned.stderr
    assert learned.json["val_accuracy"] > 0.5
    train = run_command(
        "train", artifact, "--data", data, "--output", run, "--memory-budget", "300MiB", "--epochs", 4,
        "--batch-size", 8, "--lr", 5e-3, "--threads", 1, "--json", python=python, cwd=cwd,
    )  # fmt: skip
    assert train.returncode == 0, train.stderr
    summary = train.json
    assert summary["peak_rss_bytes"] <= summary["budget_bytes"]
    adapter = run / "best.safetensors"
    evaluation = run_command("eval", artifact, "--adapter", adapter, "--data", data, "--json", python=python, cwd=cwd)
    assert evaluation.json["accuracy"] == pytest.approx(summary["best_accuracy"])
    image = next((data / "val" / "red").iterdir())
    predicted = run_command("predict", artifact, "--adapter", adapter, image, "--json", python=python, cwd=cwd)
    assert predicted.json["results"][0]["predictions"][0]["label"] in ("blue", "green", "red")
    return summary


def test_the_device_environment_has_nothing_of_the_host(device_python):
    command = [device_python, "-m", "pip", "list", "--format", "json"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    names = {entry["name"].lower().replace("_", "-") for entry in listed}
    assert names >= DEVICE_PACKAGES
    assert not names & {*HOST_MODULES, "scikit-learn"}


def test_importing_every_device_module_leaves_torch_out(device_python, tmp_path):
    for python in (device_python, sys.executable):  # the second one could import torch
        done = subprocess.run(
            [python, "-c", IMPORT_EVERYTHING], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        where, host_modules, _ = json.loads(done.stdout)
        assert host_modules == []
        if python == device_python:
            assert ".venv-device" in where


def test_device_runs_a_packed_file(device_python, small_artifact, data, tmp_path):
    summary = fine_tune(device_python, small_artifact, data, tmp_path / "run", tmp_path)
    assert summary["val_accuracy"] >= 0.6


def test_a_device_can_watch_a_run_with_python_alone(device_python, tmp_path):
    """Whatever else is imported would be taken from the memory that the run was promised."""
    run = write_sample(tmp_path / "run", is_finished=False)
    done = subprocess.run(
        [device_python, "-c", WATCH, "watch", run], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "deit_tiny_patch16_224" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_a_device_can_watch_what_is_learned_with_python_alone(device_python, tmp_path):
    """Also while it is being learned, and what it saw last."""
    path = write_knowledge(tmp_path / "K.safetensors", sample_record())
    (tmp_path / "K.safetensors.recent.json").write_text(json.dumps(sample_recent()))
    read_into(path, 17)
    done = subprocess.run(
        [device_python, "-c", WATCH, "watch", path], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    for part in ("deit_tiny_patch16_224", "17 images", "53 of 4 classes", "unlike what was learned"):
        assert part in done.stdout
    assert done.stdout.endswith("[]\n")


def test_a_report_on_a_device_names_the_extra(device_python, tmp_path):
    run = write_sample(tmp_path / "run")
    assert_refused(run_command("report", run, python=device_python, cwd=tmp_path), 2, "edge-s2a[report]")


def test_onnxruntime_training_runs_the_same_file(ort_training_python, small_artifact, data, tmp_path):
    version = subprocess.run(
        [ort_training_python, "-c", "import onnxruntime; print(onnxruntime.__version__)"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    assert version == "1.19.2"
    summary = fine_tune(ort_training_python, small_artifact, data, tmp_path / "run", tmp_path)
    assert summary["val_accuracy"] >= 0.6


@pytest.mark.parametrize(
    "command", [["pack", "vit_tiny_patch16_224", "--num-classes", 3, "--output", "x.s2a"], ["quickstart"]]
)
def test_host_commands_on_a_device_name_the_extra(device_python, tmp_path, command):
    assert_refused(run_command(*command, python=device_python, cwd=tmp_path), 2, "edge-s2a[host]")


def test_the_installed_command_exists(device_python, tmp_path):
    script = device_python.parent / "edge-s2a"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith(f"edge-s2a {__version__}")
