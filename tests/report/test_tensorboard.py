"""TensorBoard reads what the run recorded."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.commands import assert_refused, run_command
from tests.helpers.runs import metrics_of
from tests.helpers.sample_run import write_sample


@pytest.fixture
def run(tmp_path):
    return write_sample(tmp_path / "run")


def test_every_number_of_the_run_is_there_at_its_step(run, tmp_path):
    done = run_command("report", run, "--tensorboard", tmp_path / "events")
    assert done.returncode == 0, done.stderr
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    lines = metrics_of(run)
    steps = [line for line in lines if line["kind"] == "step"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    for tag, key in (("loss/step", "loss"), ("learning rate", "lr"), ("memory/resident bytes", "rss_bytes")):
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        assert found == [(line["step"], pytest.approx(line[key], rel=1e-6)) for line in steps]  # float32
    validation = [event.value for event in events.Scalars("accuracy/validation")]
    assert validation == [pytest.approx(line["val_accuracy"], rel=1e-6) for line in epochs]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    assert_refused(run_command("report", tmp_path, "--tensorboard", tmp_path / "events"), 2, tmp_path)
    assert not (tmp_path / "events").exists()
