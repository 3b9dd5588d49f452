"""examples/cpp: a program without a dependency learns and answers as the library does.

Scores are compared whole, on images that were not learned, to 1e-5 of the largest: the program sums in float64, the
library's weights are float32.
"""

import shutil
import subprocess

import numpy as np
import pytest

import edge_s2a
from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.knowledge import load_taught
from edge_s2a.codec.features import decode
from edge_s2a.device.closed_form.form import Form
from edge_s2a.device.closed_form.solve import solve
from edge_s2a.device.closed_form.state import add, empty
from tests.device.closed_form.images import features_of, images_of, layout_of
from tests.examples.test_examples import run_example
from tests.helpers.commands import run_command
from tests.helpers.paths import PROJECT

TOLERANCE = 1e-5
# Learned from the exported graph's features, not from their float16 codes.
TOLERANCE_OF_CODES = 1e-3
LAYOUT = layout_of()  # 12 features
NAMES = ["bee", "cat", "dog"]
WORDS = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The compiled program."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: the C++ program was not compiled")
    path = tmp_path_factory.mktemp("cpp") / "learn"
    command = ["g++", *WORDS, PROJECT / "examples" / "cpp" / "learn.cpp", "-o", path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


def run(program, *arguments, cwd) -> subprocess.CompletedProcess:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False)


def learned_by(program, folder, train, labels, ridge, test) -> np.ndarray:
    """The scores that the program writes."""
    np.save(folder / "train.npy", train)
    np.save(folder / "labels.npy", labels)
    np.save(folder / "test.npy", test)
    done = run(program, "train.npy", "labels.npy", ridge, "test.npy", "scores.npy", cwd=folder)
    assert done.returncode == 0, done.stderr
    scores = np.load(folder / "scores.npy")
    assert scores.dtype == np.float32
    assert done.stdout.split() == [str(label) for label in scores.argmax(1)]
    return scores


def assert_close(found, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10])
@pytest.mark.parametrize("count", [7, 40], ids=["fewer images than features", "more images than features"])
def test_scores_are_those_of_the_library(program, tmp_path, count, ridge):
    """Classes of different sizes, and a feature that is the same in all images."""
    labels = [0 if number % 2 else number % 3 for number in range(count)]
    kept = images_of(range(count), labels, LAYOUT)
    features = decode(kept.codes, LAYOUT)
    features[:, 4] = features[0, 4]
    kept.codes[:, 8:10] = kept.codes[0, 8:10]  # of float16
    state, _ = add(empty(LAYOUT), NAMES, kept)
    head = solve(state, Form("dual" if count < LAYOUT.width else "primal", 3, 8, 0), ridge=ridge)
    fresh = np.array([features_of(number, number % 3, LAYOUT) for number in range(900, 930)])
    found = learned_by(program, tmp_path, features, np.array(labels, np.int64), ridge, fresh)
    assert_close(found, fresh @ head.weight.T + head.bias)


def test_an_exported_graph_gives_it_the_features_of_images(program, small_artifact, image_folder, tmp_path):
    """From photos on: `learn`, `export --format onnx-features`, the features of both sets, and the program."""
    done = run_command(
        "learn", small_artifact, "--data", image_folder, "--output", tmp_path / "k.safetensors",
        "--memory-budget", "160MiB", "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    edge_s2a.export(small_artifact, tmp_path / "k.safetensors", tmp_path / "features.onnx", format="onnx-features")
    sets = {}
    for part, images in (("train", 42), ("val", 12)):
        printed = run_example("cpp/features.py", "features.onnx", image_folder / part, "--output", part, cwd=tmp_path)
        assert printed == f"{images} images of blue, green, red: 96 features each\n"
        sets[part] = [np.load(tmp_path / part / f"{name}.npy") for name in ("features", "labels")]
    head = load_taught(tmp_path / "k.safetensors", Artifact(small_artifact).manifest).head
    (train, labels), (test, expected) = sets["train"], sets["val"]
    found = learned_by(program, tmp_path, train, labels, head.ridge, test)
    assert_close(found, test @ head.weight.T + head.bias, TOLERANCE_OF_CODES)
    assert (found.argmax(1) == expected).mean() > 0.9


TRAIN, LABELS = np.eye(3, dtype=np.float32), np.array([0, 1, 1])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"labels": LABELS[:2]}, "there is not one label for each image"),
        ({"labels": LABELS - 1}, "a label is below 0"),
        ({"labels": LABELS.astype(np.int32)}, "labels.npy is not of <i8: {'descr': '<i4'"),
        ({"train": TRAIN.astype(np.float64)}, "train.npy is not of <f4: {'descr': '<f8'"),
        ({"train": TRAIN.T[:, :2].T.copy(order="F")}, "'fortran_order': True"),
        ({"train": TRAIN * np.float32("nan")}, "train.npy has values that are not finite"),
        ({"test": TRAIN[:, :2]}, "images to learn and to tell have other features"),
        ({"test": TRAIN[0]}, "test.npy has not two axes"),
        ({"ridge": 0}, "lambda is not above 0"),
    ],
)
def test_it_says_what_is_wrong_in_one_line(program, tmp_path, changed, said):
    given = {"train": TRAIN, "labels": LABELS, "test": TRAIN, "ridge": 0.1, **changed}
    for name in ("train", "labels", "test"):
        np.save(tmp_path / f"{name}.npy", given[name])
    done = run(program, "train.npy", "labels.npy", given["ridge"], "test.npy", "scores.npy", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("learn: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert not (tmp_path / "scores.npy").exists()


def test_a_file_that_numpy_did_not_write_or_that_is_cut(program, tmp_path):
    np.save(tmp_path / "train.npy", TRAIN)
    whole = (tmp_path / "train.npy").read_bytes()
    for content, said in ((b"text", "train.npy is no .npy file"), (whole[:-1], "train.npy is cut short")):
        (tmp_path / "train.npy").write_bytes(content)
        done = run(program, "train.npy", "labels.npy", 0.1, "train.npy", "scores.npy", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (2, f"learn: {said}\n")
