"""The library: `Trainer` on images that a program has, `train` on folders."""

import doctest
import json

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import edge_s2a
from edge_s2a.device import trainer as api
from edge_s2a.errors import BudgetError, UserError
from tests.helpers.artifacts import CLASSES
from tests.helpers.commands import run_command
from tests.helpers.runs import metrics_of

BUDGET = "auto"  # this test process has torch, and what other tests left


def tinted(label, seed):
    """An image uint8 (40, 40, 3) in the colour of its class."""
    pixels = np.random.default_rng(seed).integers(0, 120, (40, 40, 3), np.uint8)
    pixels[:, :, 2 - label] += 100
    return pixels


def some_images(count, seed=0):
    return [(tinted(number % 3, seed + number), CLASSES[number % 3]) for number in range(count)]


@pytest.fixture
def trainer(small_artifact):
    return edge_s2a.Trainer(small_artifact, memory_budget=BUDGET, batch_size=6, lr=5e-3, threads=1)


def test_it_learns_from_a_list(trainer):
    steps = []
    last = trainer.fit(some_images(24), steps=20, warmup_steps=2, on_step=steps.append)
    assert last == steps[-1]
    assert [step.step for step in steps] == list(range(1, 21))
    assert steps[0].learning_rate == pytest.approx(2.5e-3)
    assert steps[-1].learning_rate < 1e-4
    assert all(step.images == 6 for step in steps)
    evaluation = trainer.evaluate(some_images(30, seed=100))
    assert evaluation.accuracy >= 0.9
    assert evaluation.images == 30
    (likeliest,) = trainer.predict(tinted(1, 7))
    assert likeliest.label == "green"
    assert 0.3 < likeliest.probability <= 1
    assert sum(prediction.probability for prediction in trainer.predict(tinted(1, 7), top=3)) == pytest.approx(1)


def test_it_reads_a_stream_once_and_in_order(trainer):
    def camera():
        for image, label in some_images(13):
            seen.append(label)
            yield image, label

    seen = []
    last = trainer.fit(camera(), steps=100)
    assert seen == [label for _, label in some_images(13)]
    assert trainer.steps == last.step == 3  # 6, 6 and 1
    assert last.images == 1


def test_a_step_equals_that_of_the_command(trainer, small_artifact, tmp_path):
    """`train` for one epoch of one step, from files; and `step` with the same images as arrays."""
    folder = tmp_path / "data"
    images = some_images(6)
    for number, (pixels, label) in enumerate(images):
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / label / f"{number}.png")
    done = run_command(
        "train", small_artifact, "--data", folder, "--output", tmp_path / "run", "--memory-budget", "300MiB",
        "--epochs", 1, "--batch-size", 6, "--lr", 5e-3, "--warmup-epochs", 0, "--threads", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    trainer.start(images)
    step = trainer.step(images)
    (recorded,) = [line for line in metrics_of(tmp_path / "run") if line["kind"] == "step"]
    assert step.loss == pytest.approx(recorded["loss"], rel=1e-5)
    assert step.gradient_norm == pytest.approx(recorded["gradient_norm"], rel=1e-4)
    commanded = edge_s2a.Trainer(small_artifact, memory_budget=BUDGET, batch_size=6, threads=1)
    commanded.load(tmp_path / "run" / "adapter.safetensors")
    for name, array in trainer.adapter.items():
        # Sums in another order of images; a step of Adam turns a gradient that is all rounding into a whole step.
        np.testing.assert_allclose(array, commanded.adapter[name], atol=1e-4)


def test_paths_arrays_and_pillow_images_are_the_same_image(trainer, tmp_path):
    pixels = tinted(0, 3)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    sources = [pixels, Image.fromarray(pixels), tmp_path / "image.png", str(tmp_path / "image.png")]
    first, *others = [trainer.predict(source, top=3) for source in sources]
    assert all(other == first for other in others)


def test_what_is_saved_is_an_adapter_of_the_command(trainer, small_artifact, image_folder, tmp_path):
    trainer.fit(some_images(12), steps=3)
    trainer.save(tmp_path / "adapter.safetensors")
    done = run_command(
        "eval", small_artifact, "--adapter", tmp_path / "adapter.safetensors", "--data", image_folder, "--json"
    )
    assert done.returncode == 0, done.stderr
    files = [(path, path.parent.name) for path in sorted(image_folder.glob("val/*/*.png"))]
    assert trainer.evaluate(files).accuracy == done.json["accuracy"]


def test_the_adapter_can_be_taken_and_given(trainer):
    trainer.fit(some_images(12), steps=2)
    before, probability = trainer.adapter, trainer.predict(tinted(0, 0))[0].probability
    trainer.fit(some_images(12), steps=5)
    assert any((trainer.adapter[name] != before[name]).any() for name in before)
    trainer.adapter = before
    assert trainer.predict(tinted(0, 0))[0].probability == probability
    with pytest.raises(UserError, match="head"):
        trainer.adapter = {name: array for name, array in before.items() if "head" not in name}


def test_a_callback_may_stop(trainer):
    last = trainer.fit(some_images(12), steps=50, on_step=lambda step: step.step == 4 and trainer.stop())
    assert last.step == 4


def test_unreadable_files_are_left_out_and_listed(trainer, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"no image")
    last = trainer.fit([(tmp_path / "torn.png", "red"), *some_images(6)], steps=2)
    assert last.images == 6
    (reason,) = trainer.skipped  # once, though it was tried in each pass
    assert "torn.png" in reason
    with pytest.raises(UserError, match="torn"):
        trainer.predict(tmp_path / "torn.png")
    with pytest.raises(UserError, match="no image"):
        trainer.evaluate([(tmp_path / "torn.png", "red")])
    assert trainer.fit([(tmp_path / "torn.png", "red")], steps=2) is None


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(np.zeros((40, 40, 2), np.uint8), "red")], "uint8"),
        ([(np.zeros((40, 40, 3), np.float32), "red")], "float32"),
        ([(tinted(0, 0), "purple")], "purple"),
        ([(tinted(0, 0), 3)], "label 3"),
        ([(None, 0)], "NoneType"),
        (some_images(7), "batch_size"),
    ],
)
def test_what_is_wrong_is_said(trainer, pairs, message):
    with pytest.raises(UserError, match=message):
        trainer.step(pairs)


def test_no_images_are_said_and_none_that_can_be_read_are_no_step(trainer, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"no image")
    for call in (lambda: trainer.fit([], steps=2), lambda: trainer.start([])):
        with pytest.raises(UserError, match="no images"):
            call()
    before = trainer.adapter
    assert trainer.fit(iter([]), steps=2) is None
    assert trainer.fit([(tmp_path / "torn.png", 0)], steps=2) is None
    assert trainer.steps == 0
    for name, tensor in trainer.adapter.items():
        np.testing.assert_array_equal(tensor, before[name], name)


def test_a_budget_too_small_says_what_would_do(small_artifact):
    with pytest.raises(BudgetError) as raised:
        edge_s2a.Trainer(small_artifact, memory_budget=1 << 20)
    assert raised.value.minimum_budget_bytes > 1 << 20


def test_train_is_the_command_with_a_callback(small_artifact, image_folder, tmp_path):
    steps = []
    summary = edge_s2a.train(
        small_artifact, image_folder, tmp_path / "run", memory_budget=BUDGET, epochs=2, batch_size=8, threads=1,
        on_step=steps.append,
    )  # fmt: skip
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert steps == [line for line in metrics_of(tmp_path / "run") if line["kind"] == "step"]


@pytest.mark.skipif(
    tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 23), reason="onnxruntime has one arena in a process"
)
def test_doctests(small_artifact):
    images = [(pixels, label) for pixels, label in some_images(24)]
    results = doctest.testmod(
        api, extraglobs={"Trainer": api.Trainer, "images": images, "artifact": small_artifact}, raise_on_error=False
    )
    assert results.attempted >= 6
    assert results.failed == 0
