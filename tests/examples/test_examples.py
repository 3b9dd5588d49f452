"""The programs of examples/, as a reader runs them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edge_s2a
from tests.helpers.artifacts import SMALL_VIT
from tests.helpers.paths import PROJECT

CHANCE = 1 / 3  # small_artifact has three classes


def run_example(name: str, *arguments, cwd) -> str:
    """What it prints."""
    done = subprocess.run(
        [sys.executable, PROJECT / "examples" / name, *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, timeout=300, check=False, env={"PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(pattern: str, text: str) -> list[float]:
    """Of the only match."""
    (found,) = re.findall(pattern, text)
    return [float(word) for word in ([found] if isinstance(found, str) else found)]


def test_the_camera_loop_learns_between_frames_within_its_budget(small_artifact, image_folder, tmp_path):
    printed = run_example(
        "camera_loop.py", small_artifact, "--images", image_folder / "train", "--memory-budget", "128MiB",
        "--frames", 120, "--batch-size", 12, "--lr", 5e-3, cwd=tmp_path,
    )  # fmt: skip
    assert len(re.findall("^frame", printed, re.MULTILINE)) == 5
    (accuracy,) = numbers(r"accuracy: (\S+) on the last 30 frames", printed)
    assert accuracy > 2 * CHANCE
    peak, budget = numbers(r"peak memory: (\S+) MiB of (\S+) MiB", printed)
    assert peak <= budget == 128
    assert (tmp_path / "camera.safetensors").exists()


def test_the_learning_camera_knows_its_classes_and_goes_on_from_where_it_was(small_artifact, image_folder, tmp_path):
    arguments = [
        "learn_from_camera.py", small_artifact, "--images", image_folder / "train", "--memory-budget", "160MiB",
        "--frames", 60, "--named", 12,
    ]  # fmt: skip
    printed = run_example(*arguments, cwd=tmp_path)
    (accuracy, count) = numbers(r"accuracy: (\S+) of (\S+) frames", printed)
    assert accuracy > 2 * CHANCE
    named = len(re.findall(r"^frame \d+: learned", printed, re.MULTILINE))
    assert named >= 12
    assert named + count == 60
    again = run_example(*arguments, "--seed", 1, cwd=tmp_path)
    (images,) = re.findall(r"goes on from (\d+) images of", again)
    assert 12 <= int(images) <= named  # a frame that comes twice counts once


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """demo.s2a, the embedded model for ten classes, and photos/{train,val}/<digit>/*, 30 and 20 images per class."""
    from edge_s2a.quickstart import DESCRIPTION, WEIGHTS, write_digits

    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "photos")
    for digit in (folder / "photos" / "val").iterdir():
        for path in sorted(digit.iterdir())[20:]:
            path.unlink()
    description = json.loads(DESCRIPTION.read_text())
    edge_s2a.pack(
        description["model"], folder / "demo.s2a", num_classes=10, weights=WEIGHTS,
        model_kwargs=description["model_kwargs"],
    )  # fmt: skip
    return folder


def test_the_replay_buffer_keeps_old_classes(digits, tmp_path):
    arguments = [digits / "demo.s2a", "--data", digits / "photos", "--memory-budget", "160MiB"]
    kept = run_example("replay_buffer.py", *arguments, "--capacity", 60, cwd=tmp_path)
    assert f"buffer: 60 images, { {str(digit): 6 for digit in range(10)} }" in kept
    forgotten = run_example("replay_buffer.py", *arguments, "--capacity", 0, cwd=tmp_path)
    pattern = r"new classes arrive: accuracy (\S+) on old classes, (\S+) on new"
    assert min(numbers(pattern, kept)) > 0.6
    assert numbers(pattern, forgotten)[0] < 0.3


def test_the_exported_file_answers_as_the_run_did(image_folder, tmp_path):
    printed = run_example(
        "export_to_onnxruntime.py", "vit_tiny_patch16_224", "--model-kwargs", json.dumps(SMALL_VIT),
        "--data", image_folder, "--memory-budget", "128MiB", "--epochs", 4, "--lr", 5e-3, "--output", "out",
        cwd=tmp_path,
    )  # fmt: skip
    (accuracy,) = numbers(r"accuracy: (\S+) of 12 images", printed)
    assert accuracy > 2 * CHANCE
    assert "same answer as the run's: 12 of 12 images" in printed
    assert (tmp_path / "out" / "model.onnx").exists()


def test_the_examples_use_the_public_interface_alone():
    for path in (PROJECT / "examples").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"edge_s2a\.(?!Trainer|Learner|train|pack|export)\w+", text), path.name
        assert not re.findall(r"from edge_s2a[.\w]* import (?!(?:Trainer|Learner)$)", text, re.MULTILINE), path.name
        assert len(text.splitlines()) <= 85, path.name
