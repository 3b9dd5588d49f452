"""The device's wheel on aarch64, under QEMU, against the same wheel's commands on this machine.

QEMU translates a program into memory of that program's process, so what a process takes there says nothing of an Arm
board: memory is tested elsewhere.
"""

import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from edge_s2a.artifact import tensors
from tests.helpers.artifacts import pack
from tests.helpers.commands import assert_refused, run_command
from tests.helpers.images import write_images
from tests.helpers.paths import PROJECT
from tests.helpers.runs import metrics_of, step_losses

pytestmark = pytest.mark.aarch64

PYTHON = PROJECT / ".aarch64" / "python"
# The oldest engine that is supported, and one between it and the newest, which is that of all other tests.
OLDER_ENGINES = ["1.19.2", "1.22.1"]
ARTIFACTS = {
    "vit": {},
    "vit-int4": {"weight_format": "int4", "adapter": "bias+lowrank"},
    "swin": {
        "model": "swin_tiny_patch4_window7_224",
        "model_kwargs": {"img_size": 32, "window_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)},
        "adapter": "bias+prompt+side",
    },
    "mobilenet-fp16": {
        "model": "mobilenetv2_035", "model_kwargs": {}, "image_size": 32, "adapter": "lowrank",
        "weight_format": "fp16",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def on_aarch64(wheel, tmp_path_factory):
    """Options of run_command with which it runs the wheel under QEMU."""
    site = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*install, "--target", site, wheel], check=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return {"python": PYTHON, "cwd": site, "env": environment | {"PYTHONPATH": str(site)}, "timeout": 900}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aarch64")
    write_images(folder / "train", 6, seed=0)
    write_images(folder / "val", 3, seed=1)
    return folder


def succeed(*arguments, **options):
    finished = run_command(*arguments, **options)
    assert finished.returncode == 0, finished.stderr
    return finished


def train_options(artifact, data, run):
    return [
        "train", artifact, "--data", data, "--output", run, "--memory-budget", "1GiB", "--epochs", 2,
        "--batch-size", 6, "--lr", 5e-4, "--threads", 1, "--json",
    ]  # fmt: skip


def adapter_of(run):
    return tensors.decode((run / "adapter.safetensors").read_bytes(), "adapter")[0]


def assert_same_training(run, reference, steps=6):
    """Sums of float32 are taken in another order, a value at the edge of a 4-bit code may take the next code, and AdamW
    makes equal steps of small and large gradients, so that differences grow from step to step. Losses agree to 1e-5
    (measured: to the six decimals written), all adapter values together to 1e-3 of their norm (measured: 5e-5)."""
    assert len(step_losses(run)) == steps
    print(np.array(step_losses(run)) - step_losses(reference))
    np.testing.assert_allclose(step_losses(run), step_losses(reference), rtol=0, atol=1e-5)
    ours, theirs = adapter_of(run), adapter_of(reference)
    assert ours.keys() == theirs.keys()
    flat = [np.concatenate([adapter[name].ravel() for name in sorted(adapter)]) for adapter in (ours, theirs)]
    assert np.linalg.norm(flat[0] - flat[1]) <= 1e-3 * np.linalg.norm(flat[1])


def test_this_is_aarch64_without_the_host_packages(on_aarch64):
    program = (
        "import platform, importlib.util as u, edge_s2a; "
        "print(platform.machine(), edge_s2a.__file__, [m for m in ('torch', 'timm', 'onnx') if u.find_spec(m)])"
    )
    done = subprocess.run(
        [PYTHON, "-c", program], check=True, capture_output=True, text=True, env=on_aarch64["env"], cwd="/"
    )
    machine, where, *host = done.stdout.split()
    assert machine == "aarch64"
    assert where == str(on_aarch64["cwd"] / "edge_s2a" / "__init__.py")
    assert host == ["[]"]


@pytest.mark.parametrize("name", ARTIFACTS)
def test_an_artifact_trains_as_on_this_machine(name, on_aarch64, data, tmp_path):
    artifact = pack(tmp_path / "model.s2a", **ARTIFACTS[name])
    checked = succeed("check", artifact, "--json", **on_aarch64).json
    assert checked["ok"] is True

    here, there = tmp_path / "here", tmp_path / "there"
    succeed(*train_options(artifact, data, here))
    summary = succeed(*train_options(artifact, data, there), **on_aarch64).json
    assert summary["peak_rss_bytes"] <= summary["budget_bytes"]
    assert_same_training(there, here)

    # The adapter goes home: both judge it alike, to the accuracy of float32 sums.
    adapter = there / "adapter.safetensors"
    judge = ("eval", artifact, "--adapter", adapter, "--data", data, "--json")
    ours, theirs = succeed(*judge, **on_aarch64).json, succeed(*judge).json
    assert ours["accuracy"] == theirs["accuracy"]
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)


def test_products_in_int8_agree(on_aarch64, tmp_path):
    """The golden step of two blocks, tighter than `check` asks for: gradients to 1e-3."""
    artifact = pack(tmp_path / "model.s2a", compute="int8")
    errors = succeed("check", artifact, "--json", **on_aarch64).json["errors"]
    assert max(errors.values()) <= 1e-3, errors


def test_prediction_agrees(on_aarch64, small_artifact, data, tmp_path):
    succeed(*train_options(small_artifact, data, tmp_path / "run"))
    adapter, images = tmp_path / "run" / "adapter.safetensors", sorted((data / "val" / "red").iterdir())
    predict = ("predict", small_artifact, "--adapter", adapter, "--json", *images)
    ours, theirs = (succeed(*predict, **options).json["results"] for options in (on_aarch64, {}))
    assert len(ours) == len(images)
    for one, other in zip(ours, theirs, strict=True):
        assert [entry["label"] for entry in one["predictions"]] == [entry["label"] for entry in other["predictions"]]
        np.testing.assert_allclose(
            [entry["probability"] for entry in one["predictions"]],
            [entry["probability"] for entry in other["predictions"]],
            atol=1e-5,  # float32 sums in another order
        )


def test_a_killed_run_continues_to_the_same_bytes(on_aarch64, small_artifact, data, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    succeed(*train_options(small_artifact, data, whole), **on_aarch64)
    command = [PYTHON, "-m", "edge_s2a", *map(str, train_options(small_artifact, data, killed))]
    process = subprocess.Popen(
        [*command, "--checkpoint-minutes", "0.0001"], env=on_aarch64["env"], cwd=on_aarch64["cwd"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not (
        (killed / "checkpoint" / "state.safetensors").exists() and len(metrics_of(killed)) >= 2
    ):
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -9, "the run was over before it was killed"
    succeed(*train_options(small_artifact, data, killed), "--resume", **on_aarch64)
    assert (killed / "adapter.safetensors").read_bytes() == (whole / "adapter.safetensors").read_bytes()
    assert step_losses(killed) == step_losses(whole)


def test_a_damaged_file_gets_one_message(on_aarch64, small_artifact, tmp_path):
    data = bytearray(small_artifact.read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "damaged.s2a"
    path.write_bytes(data)
    assert_refused(run_command("check", path, **on_aarch64), 4, "copy or repack it")


@pytest.mark.soak
@pytest.mark.parametrize("version", OLDER_ENGINES)
def test_older_engines_train_alike(version, on_aarch64, small_artifact, data, tmp_path):
    site = tmp_path / "site"
    install = (
        f'source tools/setup_aarch64.sh; install_aarch64 "{site}" onnxruntime=={version} "numpy<2.4" pillow psutil'
    )
    subprocess.run(["bash", "-c", install], check=True, cwd=PROJECT)
    options = on_aarch64 | {"env": on_aarch64["env"] | {"AARCH64_SITE": str(site)}}
    assert succeed("check", small_artifact, "--json", **options).json["ok"] is True
    here, there = tmp_path / "here", tmp_path / "there"
    succeed(*train_options(small_artifact, data, here))
    succeed(*train_options(small_artifact, data, there), **options)
    assert_same_training(there, here)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_model_of_real_depth_and_width_trains_alike(on_aarch64, photo_folder, tmp_path):
    """DeiT-Tiny, two steps of five photos. At 64 px: at 224 px QEMU takes minutes for one of them."""
    artifact = pack(
        tmp_path / "deit.s2a", model="deit_tiny_patch16_224", model_kwargs={}, image_size=64, labels=None,
        num_classes=5,
    )  # fmt: skip
    here, there, data = tmp_path / "here", tmp_path / "there", tmp_path / "data"
    for folder in photo_folder.iterdir():
        (data / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:2]:
            shutil.copy(file, data / folder.name)
    again = ["--epochs", 1, "--batch-size", 5]  # of an option given twice the last counts
    succeed(*train_options(artifact, data, here), *again)
    succeed(*train_options(artifact, data, there), *again, **on_aarch64 | {"timeout": 3000})
    assert_same_training(there, here, steps=2)
