"""A device that is hot, or whose power is short, rests between steps; a step that hangs ends the process."""

import subprocess
import sys
import time

import pytest

from edge_s2a.device.policy.heat import LONGEST_REST_S, Condition, read_condition, rest_s
from tests.helpers.paths import PROJECT
from tests.helpers.runs import metrics_of


def sysfs_tree(folder, temperatures=(), alarms=()):
    """temperatures: what each zone's file says. alarms: (file, what it says) of one hardware monitor."""
    for number, text in enumerate(temperatures):
        zone = folder / "class" / "thermal" / f"thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(text)
    monitor = folder / "class" / "hwmon" / "hwmon0"
    monitor.mkdir(parents=True)
    for name, text in alarms:
        (monitor / name).write_text(text)
    return folder


def test_the_hottest_zone_counts(tmp_path):
    """As on a Jetson: several zones in thousandths of a degree, one switched off, one that cannot be read."""
    tree = sysfs_tree(tmp_path, ["45000\n", "71500\n", "-256000\n", "\n", "999000\n"])
    (tree / "class" / "thermal" / "thermal_zone9").mkdir()  # without a temperature
    assert read_condition(tree) == Condition(71.5, False)


def test_a_machine_without_sensors_is_never_too_hot(tmp_path):
    assert read_condition(tmp_path) == Condition(None, False)
    assert rest_s(Condition(None, False), 80, 2.0) == 0


@pytest.mark.parametrize("name", ["in0_lcrit_alarm", "curr1_crit_alarm", "curr2_max_alarm"])
def test_under_voltage_and_over_current_are_seen(tmp_path, name):
    quiet = sysfs_tree(tmp_path / "quiet", ["50000"], [(name, "0\n"), ("in0_input", "5000\n")])
    short = sysfs_tree(tmp_path / "short", ["50000"], [(name, "1\n")])
    assert read_condition(quiet) == Condition(50.0, False)
    assert read_condition(short) == Condition(50.0, True)


@pytest.mark.parametrize(
    ("temperature", "is_power_short", "rest"),
    [(79.9, False, 0), (80.0, False, 2), (84.0, False, 6), (60.0, True, 2), (84.0, True, 6), (140.0, False, 60)],
)
def test_the_rest_is_a_step_at_the_limit_and_longer_the_hotter_it_is(temperature, is_power_short, rest):
    assert rest_s(Condition(temperature, is_power_short), 80, 2.0) == rest <= LONGEST_REST_S


TRAIN = """
import sys
from pathlib import Path
import edge_s2a.device.policy.heat as thermal
thermal.read_condition.__defaults__ = (Path(sys.argv[1]),)
{more}
from edge_s2a.cli.main import main
sys.exit(main(sys.argv[2:]))
"""
HANGING = """
import time
from edge_s2a.device.training_loop import TrainingLoop
whole = TrainingLoop.step
def hang(loop, images):
    if loop.position.step == 2:
        time.sleep(600)
    return whole(loop, images)
TrainingLoop.step = hang
"""


def train(tree, artifact, images, run, *options, more=""):
    arguments = ["train", artifact, "--data", images, "--output", run, "--memory-budget", "400MiB", "--threads", "1"]
    command = [sys.executable, "-c", TRAIN.format(more=more), tree, *arguments, "--batch-size", "14", *options]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=PROJECT, check=False)


def test_a_hot_run_rests_after_each_step_and_learns_the_same(small_artifact, image_folder, tmp_path):
    cool, hot = tmp_path / "cool", tmp_path / "hot"
    for run, temperature in ((cool, "40000"), (hot, "82000")):
        tree = sysfs_tree(tmp_path / f"sysfs {temperature}", [temperature])
        done = train(tree, small_artifact, image_folder, run, "--epochs", "2")
        assert done.returncode == 0, done.stderr
    assert [line for line in metrics_of(cool) if line["kind"] == "rest"] == []
    steps = [line for line in metrics_of(hot) if line["kind"] == "step"]
    rests = [line for line in metrics_of(hot) if line["kind"] == "rest"]
    assert len(rests) == len(steps) == 6
    for step, rest in zip(steps, rests, strict=True):
        assert rest["temperature_c"] == 82.0
        assert rest["seconds"] == pytest.approx(2 * step["seconds"], abs=2e-3)  # both are rounded
    assert (cool / "adapter.safetensors").read_bytes() == (hot / "adapter.safetensors").read_bytes()


def test_a_step_that_hangs_ends_the_process_and_the_run_goes_on_from_its_checkpoint(
    small_artifact, image_folder, tmp_path
):
    tree, run = sysfs_tree(tmp_path / "sysfs"), tmp_path / "run"
    options = ["--epochs", "2", "--checkpoint-minutes", "0", "--watchdog-minutes", "0.2"]
    start_s = time.monotonic()
    done = train(tree, small_artifact, image_folder, run, *options, more=HANGING)
    assert time.monotonic() - start_s < 120
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "in hang" in done.stderr  # where it was
    done = train(tree, small_artifact, image_folder, run, *options, "--resume")
    assert done.returncode == 0
    assert "resumed at epoch 1, step 2" in done.stderr
