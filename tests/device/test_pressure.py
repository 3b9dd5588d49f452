"""Memory becomes scarce while training: it ends with a checkpoint, and goes on from there to the same result."""

import subprocess
import sys

import numpy as np

from edge_s2a.device.checkpoint import read_checkpoint
from tests.helpers.commands import run_command
from tests.helpers.paths import PROJECT
from tests.helpers.runs import metrics_of, step_losses

MIB = 1 << 20
# In a process of its own, for a run limits the engine's arena. This model is too small to be run in less: that memory
# is scarce is said instead of found, after some steps.
TRAIN = """
import sys
import edge_s2a
import edge_s2a.device.policy.memory_pressure as policy
from edge_s2a.errors import MemoryPressure
artifact, data, run, budget, resume, steps = sys.argv[1:]
answers = iter([None] * int(steps))
policy.smaller_budget = lambda *_: next(answers, 300 << 20)
try:
    edge_s2a.train(
        artifact, data, run, memory_budget=int(budget), threads=1, epochs=2, batch_size=8, resume=resume == "resume"
    )
    print("done")
except MemoryPressure as pressure:
    print(pressure.budget_bytes, pressure)
"""


def train(artifact, data, run, budget, resume, steps) -> str:
    command = [sys.executable, "-c", TRAIN, artifact, data, run, budget, resume, steps]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=PROJECT, check=True)
    return done.stdout.strip()


def test_it_ends_with_a_checkpoint_and_resumes_to_the_same_losses(small_artifact, image_folder, tmp_path):
    calm, scarce = tmp_path / "calm", tmp_path / "scarce"
    assert train(small_artifact, image_folder, calm, 400 * MIB, "new", 1000) == "done"

    ended = train(small_artifact, image_folder, scarce, 400 * MIB, "new", 3)
    assert ended.startswith(f"{300 * MIB} memory has become scarce")
    assert len(step_losses(scarce)) == 4
    assert metrics_of(scarce)[-1]["kind"] == "pressure"
    assert metrics_of(scarce)[-1]["budget_bytes"] == 300 * MIB

    assert train(small_artifact, image_folder, scarce, 300 * MIB, "resume", 1000) == "done"
    # The same micro-batches: bit for bit.
    np.testing.assert_array_equal(step_losses(scarce), step_losses(calm))


GROWS = """
import sys
import numpy as np
import edge_s2a
import edge_s2a.device.policy.memory_pressure as policy
from edge_s2a.errors import MemoryPressure
artifact, data, run, budget = sys.argv[1:]
policy.smaller_budget = lambda plan, attainable, resident: 200 << 20 if resident > plan.budget_bytes else None
more = []
try:
    edge_s2a.train(
        artifact, data, run, memory_budget=int(budget), threads=1, epochs=2, batch_size=8,
        on_step=lambda line: more.append(np.ones(256 << 20, np.uint8)) if line["step"] == 3 else None,
    )
except MemoryPressure as pressure:
    print(pressure)
"""


def test_a_process_that_outgrows_its_plan_is_not_told_that_the_machine_is_short(small_artifact, image_folder, tmp_path):
    """A quarter of a GiB more than planned: the excess is in the checkpoint, so that the end of the run tells it."""
    command = [sys.executable, "-c", GROWS, small_artifact, image_folder, tmp_path, 300 * MIB]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert done.stdout.startswith("the plan was wrong: this process takes ")
    assert "more than its budget of 300.0 MiB, while " in done.stdout
    assert "scarce" not in done.stdout
    _, position, _ = read_checkpoint(tmp_path / "checkpoint" / "state.safetensors")
    resumed = run_command(
        "train", small_artifact, "--data", image_folder, "--output", tmp_path, "--epochs", 2, "--batch-size", 8,
        "--threads", 1, "--memory-budget", "200MiB", "--resume", "--json",
    )  # fmt: skip
    assert resumed.json["excess_bytes"] == position.excess_bytes > 20 * MIB
    assert resumed.returncode == 3
    assert "was above the memory budget" in resumed.stderr
