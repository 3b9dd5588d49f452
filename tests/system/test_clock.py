"""The clock is set back by a year while a training runs: durations go on, and nothing is taken for older than it is."""

import json
import subprocess
import sys

from edge_s2a.run.reader import read_facts
from tests.helpers.commands import run_command
from tests.helpers.paths import PROJECT

SET_BACK = """
import sys, time
from edge_s2a.cli.main import main
from edge_s2a.device.training_loop import TrainingLoop
step, steps, clock = TrainingLoop.step, [], time.time

def counted(self, images):
    steps.append(None)
    return step(self, images)

TrainingLoop.step = counted
time.time = lambda: clock() - (365 * 86400 if len(steps) > 3 else 0)
sys.exit(main(sys.argv[1:]))
"""


def test_durations_are_those_that_passed(small_artifact, image_folder, tmp_path):
    options = ["--epochs", 3, "--checkpoint-minutes", 0, "--memory-budget", "300MiB", "--threads", 1, "--json"]
    command = ["train", small_artifact, "--data", image_folder, "--output", tmp_path / "run", *options]
    done = subprocess.run(
        [sys.executable, "-c", SET_BACK, *map(str, command)], capture_output=True, text=True, cwd=PROJECT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 0 < json.loads(done.stdout)["seconds"] < 600
    seconds = [
        line["seconds"]
        for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
        if line["kind"] == "step"
    ]
    assert len(seconds) == 9
    assert all(0 < value < 600 for value in seconds)


def test_a_run_that_seems_to_begin_next_year_is_watched(small_artifact, image_folder, tmp_path):
    """Begun before the clock was set back, and still going on."""
    run = tmp_path / "run"
    options = ["--epochs", 1, "--memory-budget", "300MiB", "--threads", 1]
    done = run_command("train", small_artifact, "--data", image_folder, "--output", run, *options)
    assert done.returncode == 0, done.stderr
    (run / "summary.json").unlink()
    facts = json.loads((run / "run.json").read_text())
    year = int(facts["started"][:4])
    facts["started"] = facts["started"].replace(str(year), str(year + 1), 1).replace("-02-29", "-02-28")
    (run / "run.json").write_text(json.dumps(facts))
    assert read_facts(run).started == facts["started"]
    shown = run_command("watch", run, "--once")
    assert shown.returncode == 0, shown.stderr
    assert "-" not in "".join(line for line in shown.stdout.splitlines() if "left" in line)
