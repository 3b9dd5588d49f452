"""What docs/RELIABILITY.md promises of a run under Numbers, Heat and Memory, through the library: `Trainer.fit`."""

import itertools
import math
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import edge_s2a
from edge_s2a.device.policy import memory_pressure
from edge_s2a.device.policy.heat import Condition, read_condition
from edge_s2a.errors import MemoryPressure, UserError
from tests.helpers.artifacts import CLASSES
from tests.helpers.commands import run_command
from tests.helpers.paths import PROJECT
from tests.helpers.runs import metrics_of

MIB = 1 << 20


def tinted(label, seed):
    """An image uint8 (40, 40, 3) in the colour of its class."""
    pixels = np.random.default_rng(seed).integers(0, 120, (40, 40, 3), np.uint8)
    pixels[:, :, 2 - label] += 100
    return pixels


IMAGES = [(tinted(number % 3, number), CLASSES[number % 3]) for number in range(18)]
OTHERS = [(tinted(number % 3, 100 + number), CLASSES[number % 3]) for number in range(9)]
STEPS_PER_PASS = 3


@pytest.fixture
def new_trainer(small_artifact):
    """Makes trainers whose images are IMAGES in three steps."""

    def make(**options):
        options = {"batch_size": 6, "lr": 1e-3, **options}
        return edge_s2a.Trainer(small_artifact, memory_budget="auto", threads=1, **options)

    return make


def fail_from(trainer, first, last=math.inf):
    """Makes the engine's runs of those numbers, counted from here, give a gradient that is not finite."""
    good, numbers = trainer.engine.training_step, itertools.count(1)

    def step(inputs, target):
        result = good(inputs, target)
        if first <= next(numbers) <= last:
            next(iter(result.gradients.values())).flat[0] = np.inf
        return result

    trainer.engine.training_step = step


def kinds(run):
    return [line["kind"] for line in metrics_of(run)]


def assert_equal(adapter, other):
    for name, array in adapter.items():
        np.testing.assert_array_equal(array, other[name], name)


# -- numbers -------------------------------------------------------------------------------------------


def test_a_step_that_is_not_finite_changes_nothing_and_is_recorded(new_trainer, tmp_path):
    trainer, adapters = new_trainer(), []
    trainer.start(IMAGES)
    fail_from(trainer, 3, 3)
    steps = []

    def note(step):
        steps.append(step)
        adapters.append(trainer.adapter)

    trainer.fit(IMAGES, steps=5, output=tmp_path, on_step=note)
    assert [step.learning_rate > 0 for step in steps] == [True, True, False, True, True]
    assert_equal(adapters[1], adapters[2])
    assert any((adapters[2][name] != adapters[3][name]).any() for name in adapters[2])
    assert kinds(tmp_path).count("skipped") == 1
    assert kinds(tmp_path).count("step") == 4


def test_three_in_a_row_go_back_to_the_best_adapter_at_half_the_rate(new_trainer, tmp_path):
    """The best is that of the first pass; the fourth step leaves it, the next three fail."""
    calm, failing, before = [], [], []
    new_trainer().fit(IMAGES, steps=9, on_step=calm.append)
    trainer = new_trainer()
    trainer.start(IMAGES)
    fail_from(trainer, STEPS_PER_PASS + 2, STEPS_PER_PASS + 4)
    whole = trainer.step_prepared

    def step(images, lr):
        adapter, taken = trainer.adapter, whole(images, lr)
        before.extend([] if taken is None else [adapter])  # None: the pass had ended
        return taken

    trainer.step_prepared = step
    trainer.fit(IMAGES, steps=9, output=tmp_path, on_step=failing.append)
    assert [step.learning_rate > 0 for step in failing] == [True] * 4 + [False] * 3 + [True] * 2
    assert [line["rate_share"] for line in metrics_of(tmp_path) if line["kind"] == "restored"] == [0.5]
    assert failing[-1].learning_rate == pytest.approx(0.5 * calm[-1].learning_rate)
    best, left, restored = before[STEPS_PER_PASS], before[STEPS_PER_PASS + 1], before[STEPS_PER_PASS + 4]
    assert any((left[name] != best[name]).any() for name in best)
    assert_equal(restored, best)


def test_training_that_goes_on_failing_ends_with_one_error_and_the_best_adapter(new_trainer):
    trainer = new_trainer()
    trainer.start(IMAGES)
    started = trainer.adapter
    fail_from(trainer, 1)
    with pytest.raises(UserError, match=r"not finite 3 steps in a row, even at 0\.000976562 of the learning rate"):
        trainer.fit(IMAGES, steps=1000)
    assert_equal(trainer.adapter, started)
    assert trainer.evaluate(OTHERS).accuracy >= 1 / 3


def test_a_rate_that_is_far_too_high_ends_no_worse_than_it_began(new_trainer):
    trainer = new_trainer(optimizer="sgd", lr=1e5)
    trainer.start(IMAGES)
    started = trainer.evaluate(OTHERS).accuracy
    trainer.fit(IMAGES, steps=5 * STEPS_PER_PASS)
    trainer.adapter = trainer.best_adapter
    assert trainer.evaluate(OTHERS).accuracy >= started >= 0.9  # of the class means, with which the head starts


# -- heat ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("condition", "rests"), [(Condition(82.0, False), 2.0), (Condition(60.0, True), 1.0)])
def test_a_hot_or_underpowered_device_rests_after_each_step_and_learns_the_same(
    new_trainer, tmp_path, monkeypatch, condition, rests
):
    cool = new_trainer()
    cool.fit(IMAGES, steps=4)
    monkeypatch.setattr("edge_s2a.device.training_loop.read_condition", lambda: condition)
    hot = new_trainer(max_temperature=80)
    hot.fit(IMAGES, steps=4, output=tmp_path)
    lines = metrics_of(tmp_path)
    steps, pauses = ([line for line in lines if line["kind"] == kind] for kind in ("step", "rest"))
    assert len(pauses) == len(steps) == 4
    for step, pause in zip(steps, pauses, strict=True):
        assert pause["seconds"] == pytest.approx(rests * step["seconds"], abs=2e-3)  # both are rounded
    assert_equal(hot.adapter, cool.adapter)
    assert read_condition().temperature_c is None or read_condition().temperature_c < 82


HANGS = """
import sys, time
import edge_s2a
from tests.field.test_library_promises import IMAGES
trainer = edge_s2a.Trainer(sys.argv[1], batch_size=6, threads=1, watchdog_minutes=0.1)
trainer.fit(IMAGES, steps=4, output=sys.argv[2], on_step=lambda step: step.step == 2 and time.sleep(600))
"""


def test_a_step_that_hangs_ends_the_process(small_artifact, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", HANGS, small_artifact, tmp_path],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Timeout" in done.stderr


# -- memory --------------------------------------------------------------------------------------------


def test_scarce_memory_ends_with_a_checkpoint_from_which_less_memory_continues(new_trainer, tmp_path, monkeypatch):
    calm = new_trainer()
    calm.fit(IMAGES, steps=7)
    answers = iter([None] * 3)
    monkeypatch.setattr(memory_pressure, "smaller_budget", lambda *_: next(answers, 300 * MIB))
    with pytest.raises(MemoryPressure) as raised:
        new_trainer().fit(IMAGES, steps=7, output=tmp_path)
    assert raised.value.budget_bytes == 300 * MIB
    assert metrics_of(tmp_path)[-1]["kind"] == "pressure"
    monkeypatch.undo()
    resumed = new_trainer()
    assert resumed.fit(IMAGES, steps=7, output=tmp_path, resume=True).step == 7
    assert_equal(resumed.adapter, calm.adapter)


# -- checkpoints, validation, interruption -------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_a_training_that_is_interrupted_resumes_bit_for_bit(new_trainer, tmp_path, stop_at):
    """Batches of 4 of 18 images: some span two passes."""
    whole = new_trainer(batch_size=4)
    whole.fit(IMAGES, steps=11, validation=OTHERS, output=tmp_path / "whole")

    def interrupt(step):
        if step.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        new_trainer(batch_size=4).fit(IMAGES, steps=11, validation=OTHERS, output=tmp_path / "parts", on_step=interrupt)
    resumed = new_trainer(batch_size=4)
    resumed.fit(IMAGES, steps=11, validation=OTHERS, output=tmp_path / "parts", resume=True)
    assert_equal(resumed.adapter, whole.adapter)
    assert_equal(resumed.best_adapter, whole.best_adapter)
    for name in ("adapter.safetensors", "best.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    losses = [
        [line["loss"] for line in metrics_of(tmp_path / run) if line["kind"] == "step"] for run in ("whole", "parts")
    ]
    assert losses[0] == losses[1]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_program_keeps_its_own_signal_handlers(new_trainer):
    seen = []
    previous = signal.signal(signal.SIGTERM, lambda *_: seen.append("mine"))
    try:
        new_trainer().fit(IMAGES, steps=2, on_step=lambda step: os.kill(os.getpid(), signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert seen == ["mine", "mine"]


def test_a_thread_may_train(new_trainer):
    """Signals arrive in the main thread alone."""
    trainer = new_trainer()
    thread = threading.Thread(target=lambda: trainer.fit(IMAGES, steps=2))
    thread.start()
    thread.join()
    assert trainer.steps == 2


def test_the_best_adapter_by_validation_is_kept(new_trainer, small_artifact, tmp_path):
    trainer = new_trainer(lr=5e-3)
    trainer.fit(IMAGES, steps=4 * STEPS_PER_PASS, validation=OTHERS, output=tmp_path)
    epochs = [line for line in metrics_of(tmp_path) if line["kind"] == "epoch"]
    assert len(epochs) == 4
    best = max(line["val_accuracy"] for line in epochs)
    trainer.adapter = trainer.best_adapter
    assert trainer.evaluate(OTHERS).accuracy == best
    other = new_trainer()
    other.load(tmp_path / "best.safetensors")
    assert_equal(other.adapter, trainer.best_adapter)


def test_a_folder_of_the_library_is_a_run_for_watch_and_report(new_trainer, tmp_path):
    new_trainer().fit(IMAGES, steps=STEPS_PER_PASS, validation=OTHERS, output=tmp_path / "run")
    watched = run_command("watch", tmp_path / "run", "--json")
    assert watched.json["state"] == "finished"
    assert watched.json["steps"] == STEPS_PER_PASS
    reported = run_command("report", tmp_path / "run", "--json")
    assert reported.returncode == 0, reported.stderr


def test_what_cannot_be_resumed_is_refused(new_trainer, tmp_path):
    with pytest.raises(UserError, match="output"):
        new_trainer().fit(IMAGES, steps=3, resume=True)
    with pytest.raises(UserError, match="nothing to resume"):
        new_trainer().fit(IMAGES, steps=3, output=tmp_path, resume=True)
    new_trainer().fit(IMAGES, steps=3, output=tmp_path)
    with pytest.raises(UserError, match=r"lr 0.001 instead of 0.002.*steps 3 instead of 2"):
        new_trainer(lr=2e-3).fit(IMAGES, steps=2, output=tmp_path, resume=True)
