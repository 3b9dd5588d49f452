"""Classes with very different numbers of images: weights, a sampler, recalls, and what is said of a lost class."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from edge_s2a import Trainer
from edge_s2a.device.data.balance import balanced_order, balanced_weights
from edge_s2a.device.evaluate import evaluate_batches, log_softmax
from edge_s2a.device.optim.accumulate import accumulate
from edge_s2a.errors import UserError
from edge_s2a.run.recall import warning, weak_classes
from tests.device.linear_engine import LinearEngine
from tests.device.test_batches import runtime_of
from tests.helpers.artifacts import pack
from tests.helpers.commands import assert_refused, run_here
from tests.helpers.runs import metrics_of

LABELS = np.array([0] * 200 + [2] * 4 + [3] * 40)


def test_weights_make_classes_count_alike_and_are_1_on_average():
    weights = balanced_weights(LABELS, 5)
    counts = np.bincount(LABELS, minlength=5)
    np.testing.assert_allclose((weights * counts)[[0, 2, 3]], len(LABELS) / 3, rtol=1e-6)
    assert weights[1] == weights[4] == 0
    assert weights[LABELS].mean() == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_an_order_shows_classes_equally_often_and_no_image_twice_before_all_others(seed):
    order = balanced_order(LABELS, np.random.default_rng(seed))
    assert len(order) == len(LABELS)
    shown = np.bincount(LABELS[order], minlength=4)
    assert sorted(shown[[0, 2, 3]]) == [81, 81, 82]
    for label in (0, 2, 3):
        times = np.bincount(order[LABELS[order] == label], minlength=len(LABELS))[label == LABELS]
        assert times.max() - times.min() <= 1
    again = balanced_order(LABELS, np.random.default_rng(seed))
    np.testing.assert_array_equal(order, again)


def test_of_more_classes_than_images_each_image_comes_once():
    assert sorted(balanced_order(np.arange(7), np.random.default_rng(0))) == list(range(7))


def test_weighted_gradients_are_those_of_the_weighted_loss():
    """Against finite sums over images, each alone: float32, so 1e-5."""
    shape, weights = (3, 4, 4), np.array([0.25, 1.0, 3.0], np.float32)
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (6, 4, 4, 3), np.uint8), [0, 1, 2, 0, 2, 1]

    def sums(images, class_weights):
        engine = LinearEngine(3, shape)
        gradients = {name: np.zeros_like(array) for name, array in engine.adapter.items()}
        result = accumulate(runtime_of(engine, 4).collator, iter(images), gradients, 6, 0.1, class_weights)
        return result, gradients

    whole, gradients = sums(list(zip(labels, pixels, strict=True)), weights)
    singles = [sums([(label, image)], None) for label, image in zip(labels, pixels, strict=True)]
    expected_loss = np.mean([weights[label] * one.loss for label, (one, _) in zip(labels, singles, strict=True)])
    assert whole.loss == pytest.approx(expected_loss, rel=1e-5)
    for name, gradient in gradients.items():
        parts = [weights[label] * one[name] for label, (_, one) in zip(labels, singles, strict=True)]
        np.testing.assert_allclose(gradient, np.mean(parts, 0), rtol=1e-4, atol=1e-6)


def test_recalls_are_of_the_classes_that_have_images():
    logits = np.array([[3, 0, 0], [0, 3, 0], [3, 0, 0], [3, 0, 0]], np.float32)
    labels = np.array([0, 1, 1, 0])
    result = evaluate_batches(lambda inputs: inputs, [([], logits, labels)], ["a", "b", "c"])
    assert result["recall"] == {"a": 1.0, "b": 0.5}
    assert result["balanced_accuracy"] == 0.75
    assert result["accuracy"] == 0.75
    assert result["loss"] == pytest.approx(-log_softmax(logits)[np.arange(4), labels].mean(), rel=1e-6)


def test_a_class_that_is_lost_is_told_where_the_others_are_right():
    recall = {"good": 0.98, "defect": 0.1, "scratch\x1b[2J": 0.0}
    assert weak_classes(0.9, recall) == ["scratch\x1b[2J", "defect"]
    assert warning(0.9, recall, "act") == "hardly ever right: scratch\ufffd[2J 0.0 %, defect 10.0 %; act"
    assert warning(0.3, recall, "act") == ""  # nothing is learned yet
    assert warning(None, {}, "act") == ""


# -- as it is used -----------------------------------------------------------------------------------


@pytest.fixture
def lopsided(tmp_path):
    """Two classes that differ little, 60 images to 4, and a validation set of 10 each."""
    rng = np.random.default_rng(0)
    for split, counts in (("train", {"good": 60, "defect": 4}), ("val", {"good": 10, "defect": 10})):
        for name, count in counts.items():
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(60, 160, (40, 40, 3), np.uint8)
                pixels[:, :, 0] += 12 * (name == "defect")
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "data"


OPTIONS = ("--threads", 1, "--memory-budget", "4GiB", "--epochs", 4, "--batch-size", 8)


@pytest.fixture(scope="module")
def pair_artifact(tmp_path_factory):
    return pack(tmp_path_factory.mktemp("pair") / "pair.s2a", num_classes=2, labels=None)


@pytest.mark.parametrize("how", [("--balance",), ("--class-weights", "balanced")])
def test_rare_classes_are_found_when_asked_for(pair_artifact, lopsided, tmp_path, how):
    plain = run_here("train", pair_artifact, "--data", lopsided, "--output", tmp_path / "plain", *OPTIONS, "--json")
    fair = run_here(
        "train", pair_artifact, "--data", lopsided, "--output", tmp_path / "fair", *OPTIONS, *how,
        "--metric", "balanced-accuracy", "--json",
    )  # fmt: skip
    assert plain.json["val_recall"].keys() == {"good", "defect"}
    assert fair.json["val_recall"]["defect"] > plain.json["val_recall"]["defect"]
    assert fair.json["val_balanced_accuracy"] == pytest.approx(np.mean([*fair.json["val_recall"].values()]))
    epochs = [line for line in metrics_of(tmp_path / "fair") if line["kind"] == "epoch"]
    assert fair.json["best_accuracy"] == max(line["val_balanced_accuracy"] for line in epochs)


def test_evaluation_lists_recalls_and_says_which_class_is_lost(pair_artifact, lopsided, tmp_path):
    run = tmp_path / "run"
    run_here("train", pair_artifact, "--data", lopsided, "--output", run, *OPTIONS)
    judge = (
        "eval",
        pair_artifact,
        "--adapter",
        run / "best.safetensors",
        "--data",
        lopsided,
        "--memory-budget",
        "4GiB",
    )
    found = run_here(*judge, "--json").json
    assert found["recall"].keys() == {"defect", "good"}
    assert found["balanced_accuracy"] == pytest.approx(np.mean([*found["recall"].values()]))
    table = run_here(*judge).stdout
    assert "balanced accuracy" in table
    assert f"defect {100 * found['recall']['defect']:.1f} %" in table


def test_the_recalls_of_a_run_are_in_its_summary_after_it_was_killed(pair_artifact, lopsided, tmp_path):
    """Of the last validation, which an earlier process made: predictions.jsonl has it."""
    arguments = ("train", pair_artifact, "--data", lopsided, "--output", tmp_path / "run", *OPTIONS, "--json")
    whole = run_here(*arguments).json
    (tmp_path / "run" / "summary.json").unlink()
    again = run_here(*arguments, "--resume").json
    assert again["val_recall"] == whole["val_recall"]
    assert again["val_balanced_accuracy"] == whole["val_balanced_accuracy"]


def test_a_stream_cannot_be_weighted(small_artifact):
    trainer = Trainer(small_artifact, threads=1, class_weights="balanced")
    with pytest.raises(UserError, match="class_weights balanced needs images that can be counted before; give a seq"):
        trainer.fit(iter([]), steps=1)


def test_a_metric_of_validation_images_needs_some(pair_artifact, lopsided, tmp_path):
    for option in (("--metric", "balanced-accuracy"), ("--patience", 2)):
        refused = run_here(
            "train", pair_artifact, "--data", lopsided / "train", "--output", tmp_path / "run", *OPTIONS, *option
        )
        assert_refused(
            refused, 2, "--patience and --metric need validation images; give --val-data, or --val-split 0.2"
        )


# -- how long, and from where ------------------------------------------------------------------------


def train(artifact, data, run, *options):
    return run_here("train", artifact, "--data", data, "--output", run, "--threads", 1, "--memory-budget", "4GiB",
                    "--batch-size", 8, *options, "--json")  # fmt: skip


def test_a_run_goes_on_for_more_epochs(small_artifact, image_folder, tmp_path):
    """The second part is made at the rates of the longer schedule."""
    first = train(small_artifact, image_folder, tmp_path / "run", "--epochs", 2)
    longer = train(small_artifact, image_folder, tmp_path / "run", "--epochs", 4, "--resume")
    assert longer.returncode == 0, longer.stderr
    assert (first.json["epochs"], longer.json["epochs"]) == (2, 4)
    assert longer.json["steps"] == 2 * first.json["steps"]
    whole = train(small_artifact, image_folder, tmp_path / "whole", "--epochs", 4)
    rates, others = (
        [line["lr"] for line in metrics_of(tmp_path / name) if line["kind"] == "step"] for name in ("run", "whole")
    )
    steps = first.json["steps"]
    assert rates[steps:] == others[steps:]
    assert rates[:steps] != others[:steps]
    assert f"the learning rate follows the schedule of all {whole.json['steps']} steps" in longer.stderr
    refused = train(small_artifact, image_folder, tmp_path / "run", "--epochs", 3, "--resume")
    assert_refused(refused, 2, "was started with epochs 4 instead of 3")


def test_a_run_begins_with_an_adapter(small_artifact, image_folder, tmp_path):
    """At a learning rate that moves nothing, it also ends with it, bit for bit."""
    train(small_artifact, image_folder, tmp_path / "first", "--epochs", 2)
    best = tmp_path / "first" / "best.safetensors"
    options = ("--epochs", 1, "--init-adapter", best, "--lr", "1e-30")
    done = train(small_artifact, image_folder, tmp_path / "second", *options)
    assert "class means" not in done.stderr
    before, after = (load_file(path) for path in (best, tmp_path / "second" / "adapter.safetensors"))
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def test_an_adapter_of_other_classes_is_no_beginning(pair_artifact, lopsided, tmp_path):
    train(pair_artifact, lopsided, tmp_path / "first", "--epochs", 1)
    options = ("--epochs", 1, "--init-adapter", tmp_path / "first" / "best.safetensors")
    refused = train(pair_artifact, lopsided, tmp_path / "third", *options, "--start", "learned")
    assert_refused(refused, 2, "--init-adapter and --start learned are two ways to begin")
    for split in ("train", "val"):
        (lopsided / split / "defect").rename(lopsided / split / "scratch")
    refused = train(pair_artifact, lopsided, tmp_path / "second", *options)
    assert_refused(refused, 2, "was trained for the classes defect, good, and", "has good, scratch; give an adapter of")


def test_patience_ends_a_run_that_gets_no_better(small_artifact, image_folder, tmp_path):
    """The tinted images are known after an epoch or two: nothing is better than all right."""
    done = train(small_artifact, image_folder, tmp_path / "run", "--epochs", 40, "--patience", 3)
    epochs = [line["val_accuracy"] for line in metrics_of(tmp_path / "run") if line["kind"] == "epoch"]
    assert len(epochs) == done.json["epochs"] < 40
    assert epochs.index(max(epochs)) == len(epochs) - 4
    assert "no better adapter in 3 epochs: training ends here" in done.stderr
    again = train(small_artifact, image_folder, tmp_path / "run", "--epochs", 40, "--patience", 3, "--resume")
    assert again.json["epochs"] == done.json["epochs"]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == done.json["epochs"]
