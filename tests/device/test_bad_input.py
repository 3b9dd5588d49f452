"""Whatever a user gets wrong ends in one clear message, the right exit code, and nothing half-written."""

import dataclasses
import os

import numpy as np
import pytest

from edge_s2a.artifact import archive, tensors
from tests.helpers.artifacts import SMALL_VIT, pack
from tests.helpers.commands import assert_refused, run_command, run_here, run_host_here
from tests.helpers.images import write_images
from tests.helpers.systems import files_no_larger_than, not_on_windows

MODEL = "vit_tiny_patch16_224"
KWARGS = [f"{key}={value}" for key, value in SMALL_VIT.items()]
BUDGET = ["--memory-budget", "300MiB", "--epochs", 1]


def train(artifact, data, output, *options, **process_options):
    return run_command("train", artifact, "--data", data, "--output", output, *BUDGET, *options, **process_options)


@pytest.fixture
def data(tmp_path):
    return write_images(tmp_path / "data", 3, seed=0)


# -- pack ----------------------------------------------------------------------------------------------


def test_unknown_model(tmp_path):
    done = run_host_here("pack", "vit_tiny_patch16_22", "--num-classes", 3, "--output", tmp_path / "x.s2a")
    assert_refused(done, 2, "vit_tiny_patch16_22", "did you mean", "vit_tiny_patch16_224")
    assert list(tmp_path.iterdir()) == []


def test_unknown_structural_module(tmp_path):
    done = run_host_here("pack", MODEL, "--num-classes", 3, "--adapter", "bias+lora", "--output", tmp_path / "x.s2a")
    assert_refused(done, 2, "'lora'", "lowrank")


def test_automatic_bits_need_images(tmp_path):
    done = run_host_here("pack", MODEL, "--num-classes", 3, "--saved-bits", "auto", "--output", tmp_path / "x.s2a")
    assert_refused(done, 2, "--calibration")


def test_calibration_folder_without_images(tmp_path):
    done = run_host_here("pack", MODEL, "--num-classes", 3, "--calibration", tmp_path, "--output", tmp_path / "x.s2a")
    assert_refused(done, 2, "--calibration", tmp_path)


def test_pack_needs_the_number_of_classes(tmp_path):
    assert_refused(run_host_here("pack", MODEL, "--output", tmp_path / "x.s2a"), 2, "--num-classes")


def test_model_options_that_timm_refuses(tmp_path):
    done = run_host_here(
        "pack", MODEL, "--num-classes", 3, "--model-kwargs", "potato=1", "--output", tmp_path / "x.s2a"
    )
    assert_refused(done, 2, "potato")


def test_weights_of_another_model(tmp_path):
    torch = pytest.importorskip("torch")

    torch.save({"blocks.0.attn.qkv.weight": torch.zeros(3, 3)}, tmp_path / "w.pt")
    done = run_host_here(
        "pack", MODEL, "--num-classes", 3, "--weights", tmp_path / "w.pt", "--output", tmp_path / "x.s2a"
    )
    assert_refused(done, 2, "do not fit the model")
    assert not (tmp_path / "x.s2a").exists()


def test_weights_with_code_in_them(tmp_path):
    import pickle

    (tmp_path / "w.pt").write_bytes(pickle.dumps(os.system))
    done = run_host_here(
        "pack", MODEL, "--num-classes", 3, "--weights", tmp_path / "w.pt", "--output", tmp_path / "x.s2a"
    )
    assert_refused(done, 2, "cannot read weights")


def test_labels_named_twice(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\ncat\n")
    done = run_host_here("pack", MODEL, "--labels", tmp_path / "labels.txt", "--output", tmp_path / "x.s2a")
    assert_refused(done, 2, "labels.txt", "once")


@not_on_windows
def test_full_disk_while_packing(tmp_path):
    """The kernel refuses to let any file grow beyond 100 kB, as a full disk would."""
    pytest.importorskip("torch")
    done = run_command(
        "pack", MODEL, "--num-classes", 3, "--model-kwargs", *KWARGS, "--output", tmp_path / "x.s2a",
        preexec_fn=files_no_larger_than(100_000),
    )  # fmt: skip
    assert_refused(done, 2, "cannot write", "x.s2a")
    assert list(tmp_path.iterdir()) == []


# -- artifact ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["inspect", "check"])
def test_missing_artifact(tmp_path, command):
    assert_refused(run_here(command, tmp_path / "none.s2a"), 2, "none.s2a", "check the path")


def test_truncated_artifact(small_artifact, tmp_path, data):
    path = tmp_path / "cut.s2a"
    path.write_bytes(small_artifact.read_bytes()[:-3000])
    assert_refused(run_here("check", path), 2, "cut.s2a", "not a complete")
    assert_refused(train(path, data, tmp_path / "run"), 2, "cut.s2a")


def test_bit_flipped_artifact(small_artifact, tmp_path, data):
    content = bytearray(small_artifact.read_bytes())
    content[len(content) // 2] ^= 16
    path = tmp_path / "flipped.s2a"
    path.write_bytes(content)
    assert_refused(run_here("check", path), 4, "flipped.s2a", "checksum")
    assert_refused(train(path, data, tmp_path / "run"), 4, "checksum")


def test_not_an_artifact_at_all(tmp_path):
    path = tmp_path / "photo.s2a"
    path.write_bytes(b"\xff\xd8\xff" * 1000)
    assert_refused(run_here("inspect", path), 2, "photo.s2a", "not a complete .s2a artifact")


# -- adapter -------------------------------------------------------------------------------------------


def test_adapter_of_another_artifact(small_artifact, tmp_path, data):
    other = pack(tmp_path / "other.s2a", model_kwargs={**SMALL_VIT, "depth": 1})
    assert train(other, data, tmp_path / "run").returncode == 0
    adapter = tmp_path / "run" / "best.safetensors"
    done = run_command("eval", small_artifact, "--adapter", adapter, "--data", data)
    assert_refused(done, 2, "best.safetensors", "another artifact")


def test_an_adapter_with_one_bit_flipped(small_artifact, tmp_path, data):
    """In the last value of a tensor, where it stays a finite number: only the digest tells."""
    run = tmp_path / "run"
    trained = train(small_artifact, data, run, "--epochs", 1)
    assert trained.returncode == 0, trained.stderr
    path = run / "adapter.safetensors"
    flipped = bytearray(path.read_bytes())
    flipped[-4] ^= 1
    path.write_bytes(flipped)
    refused = run_command("eval", small_artifact, "--adapter", path, "--data", data)
    assert_refused(refused, 2, "adapter.safetensors is damaged", "use another copy")


def test_adapter_that_is_no_adapter(small_artifact, tmp_path, data):
    path = tmp_path / "noise.safetensors"
    path.write_bytes(bytes(range(256)) * 10)
    done = run_here("eval", small_artifact, "--adapter", path, "--data", data)
    assert_refused(done, 2, "noise.safetensors", "not a valid safetensors")


# -- data ----------------------------------------------------------------------------------------------


def test_missing_data_folder(small_artifact, tmp_path):
    assert_refused(
        train(small_artifact, tmp_path / "none", tmp_path / "run"), 2, "none do not exist; give a folder with one"
    )


def test_wrong_number_of_classes(tmp_path, data):
    artifact = pack(tmp_path / "five.s2a", labels=None, num_classes=5)
    assert_refused(train(artifact, data, tmp_path / "run"), 2, "has 3 classes", "packed for 5", "--num-classes 3")


def test_class_folders_that_are_not_the_labels(small_artifact, tmp_path, data):
    (data / "red").rename(data / "rot")
    assert_refused(train(small_artifact, data, tmp_path / "run"), 2, "unknown ['rot']", "missing ['red']")


def test_empty_class_folder(small_artifact, tmp_path, data):
    for file in (data / "green").iterdir():
        file.unlink()
    assert_refused(train(small_artifact, data, tmp_path / "run"), 2, data / "green", "no images")


def test_unreadable_images_are_skipped_counted_and_reported(small_artifact, tmp_path, data):
    (data / "red" / "000.png").write_bytes(b"not an image")
    good = (data / "blue" / "001.png").read_bytes()
    (data / "blue" / "001.png").write_bytes(good[: len(good) // 2])
    (data / "blue" / "zero.jpg").write_bytes(b"")
    done = train(small_artifact, data, tmp_path / "run", "--batch-size", 4, "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["skipped_images"] == 3
    assert {path.rsplit("/", 1)[1] for path in done.json["skipped"]} == {"000.png", "001.png", "zero.jpg"}
    assert done.json["steps"] == 2  # seven readable images in batches of four


def test_no_readable_image_at_all(small_artifact, tmp_path, data):
    for file in data.glob("*/*"):
        file.write_bytes(b"x")
    assert_refused(train(small_artifact, data, tmp_path / "run"), 2, "no image", "check the data")


def test_predicting_an_unreadable_image(small_artifact, tmp_path, data):
    assert train(small_artifact, data, tmp_path / "run").returncode == 0
    (tmp_path / "bad.jpg").write_bytes(b"x")
    done = run_command(
        "predict", small_artifact, "--adapter", tmp_path / "run" / "best.safetensors", tmp_path / "bad.jpg"
    )
    assert_refused(done, 2, "bad.jpg")


# -- budget and output ---------------------------------------------------------------------------------


def test_budget_below_the_floor(small_artifact, tmp_path, data):
    done = run_command(
        "train", small_artifact, "--data", data, "--output", tmp_path / "run", "--memory-budget", "20MiB"
    )
    assert_refused(done, 3, "20.0 MiB cannot be met", "--memory-budget")


def test_budget_that_is_no_size(small_artifact):
    assert_refused(run_here("plan", small_artifact, "--memory-budget", "lots"), 2, "'lots'", "192MiB")


def test_output_folder_not_writable(small_artifact, tmp_path, data):
    (tmp_path / "file").write_text("in the way")
    assert_refused(train(small_artifact, data, tmp_path / "file" / "run"), 2, "cannot write to folder", "--output")


@not_on_windows
def test_full_disk_while_training(small_artifact, tmp_path, data):
    """The adapters of a first run survive a second whose writes fail."""
    assert train(small_artifact, data, tmp_path / "run").returncode == 0
    before = (tmp_path / "run" / "best.safetensors").read_bytes()
    done = train(
        small_artifact, data, tmp_path / "run", "--seed", 1,
        preexec_fn=files_no_larger_than(2000),
    )  # fmt: skip
    assert_refused(done, 2, "cannot write", "free")
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == before
    assert not list((tmp_path / "run").glob(".*"))


def test_resume_without_a_checkpoint(small_artifact, tmp_path, data):
    assert_refused(train(small_artifact, data, tmp_path / "run", "--resume"), 2, "nothing to resume")


def test_resume_with_other_settings(small_artifact, tmp_path, data):
    assert train(small_artifact, data, tmp_path / "run").returncode == 0
    done = train(small_artifact, data, tmp_path / "run", "--resume", "--seed", 5)
    assert_refused(done, 2, "seed 0 instead of 5")


def test_a_golden_step_that_deviates(small_artifact, tmp_path):
    """An artifact whose recorded gradient is 3 % off in one tensor, with digests that are right."""
    artifact = archive.Artifact(small_artifact)
    members = {name: artifact.read(name) for name in artifact.manifest.members}
    golden, _ = tensors.decode(members[archive.GOLDEN], "golden")
    golden = {name: array.copy() for name, array in golden.items()}
    golden["gradient:head.weight"] *= np.float32(1.03)
    members[archive.GOLDEN] = tensors.encode(golden)
    path = tmp_path / "deviating.s2a"
    manifest = dataclasses.replace(artifact.manifest, members=archive.digests(members))
    archive.write_archive(path, manifest, members)

    done = run_command("check", path, "--json")
    assert done.returncode == 4
    assert done.json["ok"] is False
    assert done.json["max_relative_error"] == pytest.approx(0.03, rel=0.05)
    assert "gradients by" in done.stderr
    assert "(tolerance 5e-03)" in done.stderr
    assert "Traceback" not in done.stderr


# -- engine --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_there(small_artifact, provider):
    """The tests run without a GPU build of the engine."""
    done = run_command("check", small_artifact, "--provider", provider)
    assert_refused(done, 2, "ExecutionProvider", "onnxruntime-gpu", "or omit --provider")
    assert run_command("check", small_artifact, "--provider", "cpu").returncode == 0


@pytest.mark.parametrize(("model", "channels"), [("vit_tiny_patch16_224", 1), ("resnet18", 4), ("resnet18", 1)])
def test_models_of_other_channels_are_refused_in_a_line(tmp_path, model, channels):
    refused = run_host_here(
        "pack", model, "--model-kwargs", f"in_chans={channels}", "--num-classes", 2, "--output", tmp_path / "F.s2a"
    )
    assert refused.returncode == 2
    assert f"{model} takes images with channels: {channels}, and" in refused.stderr
    assert "leave out in_chans; a grey image has three channels that are alike" in refused.stderr
    assert not (tmp_path / "F.s2a").exists()
