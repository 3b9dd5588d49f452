"""Memory becomes scarce while training: it ends with a checkpoint, and goes on from there to the same result."""

import subprocess
import sys

import numpy as np

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
