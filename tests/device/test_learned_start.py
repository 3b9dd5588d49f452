"""`train --start learned`: training starts from what one pass teaches, and is kept where held-out images say so.

Logits are compared with those of the parts, run alone: within 2e-3, because features are kept as float16.
"""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import edge_s2a
from edge_s2a import Learner
from edge_s2a.artifact.adapter import load_adapter
from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.knowledge import Trained, load_knowledge, save_knowledge
from edge_s2a.device import learned_start
from edge_s2a.device.average import averaged
from edge_s2a.device.classifier import load_classifier
from edge_s2a.device.data.dataset import open_dataset
from edge_s2a.device.data.micro_batches import read_batches
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.device.evaluate import log_softmax
from edge_s2a.device.held_out import Answers, Verdict, choose_places, judge, load_learned
from edge_s2a.errors import BudgetError
from edge_s2a.host.export.session import plain_session
from tests.helpers.artifacts import pack
from tests.helpers.commands import assert_refused, run_command, run_here, run_measured
from tests.helpers.images import samples_of, write_images
from tests.helpers.paths import PROJECT
from tests.helpers.systems import not_on_windows

OPTIONS = ["--batch-size", 8, "--lr", 5e-3, "--threads", 1, "--epochs", 3]
TOLERANCE = 2e-3


def train(artifact, images, run, *more):
    return run_command(
        "train", artifact, "--data", images, "--output", run, "--memory-budget", "300MiB", *OPTIONS, *more, "--json"
    )


@pytest.fixture(scope="module")
def started(small_artifact, image_folder, tmp_path_factory):
    """(RUN folder, summary)"""
    run = tmp_path_factory.mktemp("started") / "run"
    done = train(small_artifact, image_folder, run, "--start", "learned")
    assert done.returncode == 0, done.stderr
    return run, done.json


def logits_of(artifact, taught, folder, split="val"):
    classifier = load_classifier(artifact, taught, 4 << 30, EngineSettings(1))
    dataset = open_dataset(folder, split, None, None)
    rows = [classifier.logits(inputs) for _, inputs in batches(dataset, classifier)]
    return classifier.classes, np.concatenate(rows)


def batches(dataset, classifier):
    return read_batches(dataset, range(len(dataset)), classifier.runtime.collator)


# -- the choice ----------------------------------------------------------------------------------------


def test_one_image_of_four_is_held_out_of_each_class():
    labels = np.array([0] * 20 + [1] * 7 + [2] * 3)
    places = choose_places(labels, seed=0)
    assert np.bincount(labels[places], minlength=3).tolist() == [5, 1, 0]
    np.testing.assert_array_equal(places, choose_places(labels, seed=0))
    assert places.tolist() != choose_places(labels, seed=1).tolist()


def test_of_very_many_images_fewer_are_held_out():
    labels = np.arange(40_000) % 10
    assert np.bincount(labels[choose_places(labels, 0)]).tolist() == [102] * 10


RIGHT, NOISE = 4 * np.eye(3, dtype=np.float32)[[0, 1, 2] * 8], np.zeros((24, 3), np.float32)


def answers(logits):
    return Answers(np.arange(24), np.array([0, 1, 2] * 8), logits)


def test_an_adapter_that_knows_less_is_left_out():
    wrong = np.roll(RIGHT, 1, axis=1)
    verdict = judge(answers(RIGHT), wrong)
    assert (verdict.share, verdict.learned_accuracy, verdict.trained_accuracy, verdict.accuracy) == (0, 1, 0, 1)


def test_an_adapter_that_knows_all_is_taken_alone():
    verdict = judge(answers(np.roll(RIGHT, 1, axis=1)), RIGHT)
    assert (verdict.share, verdict.learned_accuracy, verdict.trained_accuracy, verdict.accuracy) == (1, 0, 1, 1)


def test_two_that_err_on_different_images_are_averaged():
    learned, trained = RIGHT.copy(), RIGHT.copy()
    learned[:8] = trained[15:23] = 0.5 * np.roll(RIGHT, 1, axis=1)[:8]
    verdict = judge(answers(learned), trained)
    assert verdict.share == 0.5
    assert (verdict.learned_accuracy, verdict.trained_accuracy, verdict.accuracy) == (16 / 24, 16 / 24, 1)


def test_an_adapter_is_not_left_out_for_being_unsure():
    """As label smoothing makes it: it is always right, and says so with 40 per cent."""
    unsure, wrong_once = RIGHT / 16, RIGHT.copy()
    wrong_once[0] = np.roll(RIGHT[0], 1)
    assert judge(answers(wrong_once), unsure).share > 0


def test_an_adapter_whose_answers_are_no_numbers_is_left_out():
    verdict = judge(answers(RIGHT), np.full_like(RIGHT, np.nan))
    assert (verdict.share, verdict.learned_accuracy, verdict.accuracy) == (0, 1, 1)


# -- a training ----------------------------------------------------------------------------------------


def test_the_summary_shows_both(started):
    _, summary = started
    compared = summary["compared"]
    assert compared["images"] == 9  # three of 14 in each of three classes
    assert compared["learned_accuracy"] > 0.7
    assert compared["trained_accuracy"] > 0.5
    assert compared["learned_val_accuracy"] == 1
    assert compared["learned_seconds"] > 0


def test_the_closed_form_has_not_learned_what_it_answers_for(started, small_artifact, image_folder, tmp_path):
    """The same as learning from a folder that lacks these images."""
    run, _ = started
    dataset = open_dataset(image_folder, "train", None, None)
    learned = load_learned(run / "answers.safetensors")
    held_out = [samples_of(dataset)[place] for place in learned.held_out.places]
    assert [sample.label for sample in held_out] == learned.held_out.labels.tolist()
    shutil.copytree(image_folder / "train", tmp_path / "rest")
    shutil.copytree(image_folder / "train", tmp_path / "out")
    for part, is_wanted in (("rest", False), ("out", True)):
        for sample in samples_of(dataset):
            if (sample in held_out) != is_wanted:
                (tmp_path / part / sample.source.parent.name / sample.source.name).unlink()
    knowledge = tmp_path / "K.safetensors"
    run_here(
        "learn", small_artifact, "--data", tmp_path / "rest", "--output", knowledge, "--memory-budget", "4GiB", "-q"
    )
    expected = logits_of(small_artifact, knowledge, tmp_path / "out", "train")[1]
    order = np.argsort(learned.held_out.places)
    np.testing.assert_allclose(learned.held_out.logits[order], expected, rtol=TOLERANCE, atol=20 * TOLERANCE)


def test_training_that_makes_nothing_better_ends_early(started, small_artifact):
    """Three colours: the closed form is always right, and surer of it. An epoch of three was enough to see that."""
    run, summary = started
    manifest = Artifact(small_artifact).manifest
    assert summary["compared"]["share"] == 0
    assert summary["steps"] == 0
    assert json.loads((run / "trial" / "summary.json").read_text())["steps"] == 5  # 33 of 42 images in batches of 8
    best, learned = (load_knowledge(run / name, manifest) for name in ("best.safetensors", "learned.safetensors"))
    assert best.trained is None
    np.testing.assert_array_equal(best.head.weight, learned.head.weight)
    assert not (run / "adapter.safetensors").exists()


@pytest.fixture
def pays(monkeypatch):
    """Held-out images say that training pays."""
    verdict = Verdict(0.5, 9, learned_accuracy=0.5, trained_accuracy=0.6, accuracy=0.7)
    monkeypatch.setattr(learned_start, "judge", lambda answers, logits: verdict)


def train_here(artifact, images, run, **changes):
    options = {"batch_size": 8, "lr": 5e-3, "threads": 1, "epochs": 3, "memory_budget": "4GiB", "quiet": True}
    return edge_s2a.train(artifact, data=images, output=run, **options | changes)


@pytest.fixture(scope="module")
def trained(small_artifact, image_folder, tmp_path_factory):
    """The adapter of a training alone."""
    run = tmp_path_factory.mktemp("trained") / "run"
    train_here(small_artifact, image_folder, run)
    return load_adapter(run / "adapter.safetensors", Artifact(small_artifact).manifest)[0]


def assert_same_adapter(run, artifact, expected):
    """Bit for bit."""
    found, _ = load_adapter(run / "adapter.safetensors", Artifact(artifact).manifest)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_training_that_pays_is_a_whole_training(pays, trained, small_artifact, image_folder, tmp_path):
    """From the beginning, on all images, as if there had been no other before."""
    summary = train_here(small_artifact, image_folder, tmp_path, start="learned")
    assert summary["steps"] == 3 * 6
    assert_same_adapter(tmp_path, small_artifact, trained)
    best = load_knowledge(tmp_path / "best.safetensors", Artifact(small_artifact).manifest)
    assert (best.trained.share, best.head.images) == (0.5, 42)
    assert summary["compared"]["val_accuracy"] == 1


def test_it_is_resumed_as_any_other(pays, trained, small_artifact, image_folder, tmp_path):
    def interrupt(line):
        if line["step"] == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_here(
            small_artifact, image_folder, tmp_path, start="learned", checkpoint_minutes=0, on_step=interrupt
        )  # fmt: skip
    seen = []
    train_here(
        small_artifact, image_folder, tmp_path, start="learned", checkpoint_minutes=0, resume=True, on_step=seen.append
    )
    assert seen[0]["step"] in (7, 8)
    assert_same_adapter(tmp_path, small_artifact, trained)


def test_eval_of_best_agrees_with_the_summary(started, small_artifact, image_folder):
    run, summary = started
    done = run_command("eval", small_artifact, "--adapter", run / "best.safetensors", "--data", image_folder, "--json")
    assert done.json["accuracy"] == pytest.approx(summary["compared"]["val_accuracy"])


def test_labels_in_another_order_than_their_names(image_folder, tmp_path):
    """The adapter's logits are in the artifact's order, those of the closed form in that of the names."""
    artifact = pack(tmp_path / "a.s2a", labels=["red", "blue", "green"], num_classes=None)
    done = train(artifact, image_folder, tmp_path / "run", "--start", "learned")
    assert done.returncode == 0, done.stderr
    assert done.json["compared"]["val_accuracy"] == 1
    judged = run_command(
        "eval", artifact, "--adapter", tmp_path / "run" / "best.safetensors", "--data", image_folder, "--json"
    )
    assert judged.json["accuracy"] == 1


def test_without_images_to_spare_there_is_nothing_to_compare(small_artifact, tmp_path):
    write_images(tmp_path / "few", 3, seed=0)
    done = train(small_artifact, tmp_path / "few", tmp_path / "run", "--start", "auto")
    assert done.returncode == 0, done.stderr
    assert "compared" not in done.json
    assert done.json["steps"] == 3 * 2  # all nine images
    load_adapter(tmp_path / "run" / "best.safetensors", Artifact(small_artifact).manifest)


def test_a_class_of_which_nothing_can_be_read_leaves_nothing_to_compare(small_artifact, image_folder, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(image_folder / "train", images)
    for image in (images / "red").iterdir():
        image.write_bytes(b"torn")
    done = train(small_artifact, images, tmp_path / "run", "--start", "learned")
    assert done.returncode == 0, done.stderr
    assert "compared" not in done.json
    assert done.json["skipped_images"] == 14


def test_without_the_memory_to_learn_auto_trains_alone(small_artifact, image_folder, trained, tmp_path, monkeypatch):
    def learn(*_):
        raise BudgetError("too little", 1)

    monkeypatch.setattr(learned_start, "learn", learn)
    assert "compared" not in train_here(small_artifact, image_folder, tmp_path / "auto", start="auto")
    assert_same_adapter(tmp_path / "auto", small_artifact, trained)
    with pytest.raises(BudgetError):
        train_here(small_artifact, image_folder, tmp_path / "learned", start="learned")


def test_what_cannot_be_trained_is_refused_before_anything_is_learned(image_folder, small_artifact, tmp_path):
    none = pack(tmp_path / "none.s2a", adapter="none", labels=None, num_classes=None)
    assert_refused(train(none, image_folder, tmp_path / "run", "--start", "auto"), 2, "has no adapter")
    (tmp_path / "one").mkdir()
    shutil.copytree(image_folder / "train" / "red", tmp_path / "one" / "red")
    done = train(small_artifact, tmp_path / "one", tmp_path / "run", "--start", "auto")
    assert_refused(done, 2, "do not match the artifact")
    assert not (tmp_path / "run" / "learned.safetensors").exists()


def test_the_budget_holds_for_both_parts(small_artifact, image_folder, tmp_path):
    arguments = ["train", small_artifact, "--data", image_folder, "--output", tmp_path, *OPTIONS, "--start", "learned"]
    done, peak_bytes = run_measured(*arguments, "--memory-budget", "120MiB", "--json")
    assert done.returncode == 0, done.stderr
    assert max(peak_bytes, done.json["compared"]["learned_peak_rss_bytes"]) <= 120 << 20


# -- interruptions -------------------------------------------------------------------------------------


@not_on_windows
def test_what_was_interrupted_ends_as_if_nothing_had_happened(started, small_artifact, image_folder, tmp_path):
    """SIGKILL while it learns, and after some steps of training."""
    run = tmp_path / "run"
    command = [
        sys.executable, "-m", "edge_s2a", "train", small_artifact, "--data", image_folder, "--output", run,
        "--memory-budget", "300MiB", *OPTIONS, "--start", "learned", "--resume-or-start", "--checkpoint-minutes", "0",
    ]  # fmt: skip
    for name in ("learned.safetensors.partial", "trial/checkpoint/previous.safetensors"):
        process = subprocess.Popen(list(map(str, command)), cwd=PROJECT, stderr=subprocess.DEVNULL)
        deadline_s = time.monotonic() + 120
        while not (run / name).exists() and process.poll() is None and time.monotonic() < deadline_s:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = train(small_artifact, image_folder, run, "--start", "learned", "--resume-or-start")
    assert done.returncode == 0, done.stderr
    manifest = Artifact(small_artifact).manifest
    paths = (folder / "trial" / "adapter.safetensors" for folder in (run, started[0]))
    found, expected = (load_adapter(path, manifest) for path in paths)
    assert found[1] == expected[1]
    for name, array in expected[0].items():
        np.testing.assert_array_equal(found[0][name], array)
    same = ("images", "share", "learned_accuracy", "trained_accuracy", "accuracy", "val_accuracy")
    assert {key: done.json["compared"][key] for key in same} == {key: started[1]["compared"][key] for key in same}


def test_other_images_are_not_compared(started, small_artifact, image_folder, tmp_path):
    shutil.copytree(started[0], tmp_path / "run")
    shutil.copytree(image_folder / "train", tmp_path / "images")
    for image in sorted((tmp_path / "images" / "red").iterdir())[4:]:
        image.unlink()
    done = train(small_artifact, tmp_path / "images", tmp_path / "run", "--start", "learned", "--resume")
    assert_refused(done, 2, "other images")


def test_damaged_answers_are_refused(started, small_artifact, image_folder, tmp_path):
    shutil.copytree(started[0], tmp_path / "run")
    path = tmp_path / "run" / "answers.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    done = train(small_artifact, image_folder, tmp_path / "run", "--start", "learned", "--resume")
    assert_refused(done, 2, "answers.safetensors is damaged", "start again without --resume")


# -- both together -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def together(started, small_artifact, tmp_path_factory):
    """A knowledge file that answers with the trained adapter beside the closed form."""
    run, manifest = started[0], Artifact(small_artifact).manifest
    path = tmp_path_factory.mktemp("together") / "K.safetensors"
    adapter, classes = load_adapter(run / "trial" / "adapter.safetensors", manifest)
    learned = load_knowledge(run / "learned.safetensors", manifest)
    save_knowledge(path, dataclasses.replace(learned, trained=Trained(adapter, classes, 0.25)), manifest)
    return path


@pytest.fixture(scope="module")
def expected(started, small_artifact, image_folder):
    """float32 (images, classes): the average of both, each run alone."""
    run = started[0]
    classes, learned = logits_of(small_artifact, run / "learned.safetensors", image_folder)
    names, trained = logits_of(small_artifact, run / "trial" / "adapter.safetensors", image_folder)
    return averaged(learned, trained[:, [names.index(name) for name in classes]], 0.25)


def test_answers_are_averaged(together, expected, small_artifact, image_folder):
    """To rounding: the same programs but for the second, which ends at the logits of `taps` instead of `inference`."""
    classes, both = logits_of(small_artifact, together, image_folder)
    assert classes == ["blue", "green", "red"]
    np.testing.assert_allclose(both, expected, rtol=1e-4, atol=1e-4)


def test_a_learner_answers_the_same(together, expected, small_artifact, image_folder):
    learner = Learner(small_artifact, threads=1, memory_budget="4GiB")
    learner.load(together)
    images = [sample.source for sample in samples_of(open_dataset(image_folder, "val", None, None))]
    found = [dict(learner.predict(image, top=3)) for image in images]
    wanted = np.exp(log_softmax(expected))
    for probabilities, row in zip(found, wanted, strict=True):
        assert probabilities == pytest.approx(dict(zip(learner.classes, row, strict=True)), abs=1e-4)


def test_an_exported_graph_answers_the_same(together, expected, small_artifact, image_folder, tmp_path):
    pytest.importorskip("torch")
    output = tmp_path / "model.onnx"
    edge_s2a.export(small_artifact, adapter=together, output=output)
    classifier = load_classifier(small_artifact, together, 4 << 30, EngineSettings(1))
    dataset = open_dataset(image_folder, "val", None, None)
    session = plain_session(str(output))
    found = [session.run(["logits"], {"image": inputs})[0] for _, inputs in batches(dataset, classifier)]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-3, atol=1e-3)


def test_the_plan_counts_both_adapters(together, small_artifact):
    classifier = load_classifier(small_artifact, together, 4 << 30, EngineSettings(1))
    trained = 4 * classifier.runtime.artifact.manifest.trainable_parameters
    assert classifier.runtime.plan.parts["trained adapter"] == 2 * trained


def test_more_images_of_the_same_classes_leave_the_adapter(together, small_artifact, image_folder, tmp_path):
    path = tmp_path / "K.safetensors"
    shutil.copy(together, path)
    run_here("learn", path, "--data", image_folder / "val", "--memory-budget", "4GiB", "-q")
    manifest = Artifact(small_artifact).manifest
    found, before = load_knowledge(path, manifest), load_knowledge(together, manifest)
    assert found.head.images == 54
    assert found.trained.share == 0.25
    for name, array in before.trained.adapter.items():
        np.testing.assert_array_equal(found.trained.adapter[name], array)


def test_a_new_class_leaves_it_out(together, small_artifact, image_folder, tmp_path):
    path = tmp_path / "K.safetensors"
    shutil.copy(together, path)
    shutil.copytree(image_folder / "val" / "red", tmp_path / "more" / "scarlet")
    done = run_here("learn", path, "--data", tmp_path / "more", "--memory-budget", "4GiB")
    assert "knows other classes" in done.stderr
    found = load_knowledge(path, Artifact(small_artifact).manifest)
    assert (found.trained, found.head.classes) == (None, ["blue", "green", "red", "scarlet"])
