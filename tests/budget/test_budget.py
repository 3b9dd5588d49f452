"""The memory budget is kept: fresh processes, their peak read from outside, against budget and prediction."""

import math

import numpy as np
import pytest

from edge_s2a.device.memory.budget import even_share
from tests.helpers.budgets import OPTIONS, train_arguments
from tests.helpers.commands import assert_refused, run_command, run_measured
from tests.helpers.runs import step_losses

MIB = 1 << 20


@pytest.fixture(scope="module")
def train(deit_artifact, photo_folder, tmp_path_factory, floor):
    """bytes above the smallest budget -> (the command, its peak, the run's folder); each is run once."""
    runs = {}

    def get(above_floor):
        if above_floor not in runs:
            run = tmp_path_factory.mktemp("run") / "run"
            done, peak = run_measured(*train_arguments(deit_artifact, photo_folder, run, floor + above_floor))
            assert done.returncode == 0, done.stderr
            runs[above_floor] = done, peak, run
        return runs[above_floor]

    return get


@pytest.mark.parametrize("above_floor_mib", [0, 20, 50, 90, 200])
def test_peak_stays_within_budget_and_is_predicted(train, floor, above_floor_mib):
    budget = floor + above_floor_mib * MIB
    done, peak, _ = train(above_floor_mib * MIB)
    summary = done.json
    print(
        f"budget {budget / MIB:.1f} MiB, micro-batch {summary['micro_batch_size']}, "
        f"predicted {summary['predicted_peak_bytes'] / MIB:.1f}, measured {peak / MIB:.1f} MiB"
    )
    assert peak <= budget
    assert summary["predicted_peak_bytes"] <= budget
    # Within 5 per cent, never under by more than 1.
    assert 0.99 * peak <= summary["predicted_peak_bytes"] <= 1.05 * peak
    assert abs(summary["peak_rss_bytes"] - peak) <= MIB


def test_more_memory_means_larger_micro_batches(deit_artifact, floor):
    sizes = [
        run_command("plan", deit_artifact, "--memory-budget", floor + extra * MIB, *OPTIONS, "--json").json[
            "micro_batch_size"
        ]
        for extra in (0, 20, 50, 200)
    ]
    assert sizes == sorted(sizes)
    assert 1 <= sizes[0] < sizes[1] < sizes[2] < sizes[3] == 16


def test_a_plan_has_as_few_runs_as_fit_and_its_parts_add_up(deit_artifact, floor):
    plan = run_command("plan", deit_artifact, "--memory-budget", floor + 30 * MIB, *OPTIONS, "--json").json
    assert sum(plan["parts"].values()) == plan["predicted_peak_bytes"] <= plan["budget_bytes"]
    assert set(plan["parts"]) == {
        "interpreter and libraries", "graphs and adapter", "weights", "saved tensors", "workspace", "optimizer",
        "data", "reserve",
    }  # fmt: skip
    micro_batch, batch = plan["micro_batch_size"], plan["batch_size"]
    runs = math.ceil(batch / micro_batch)
    assert math.ceil(batch / (micro_batch - 1)) > runs
    # What one image costs, times the images of the micro-batch that one run less would take.
    per_image = (plan["predicted_peak_bytes"] - floor) / (micro_batch - 1)
    assert floor + per_image * (math.ceil(batch / (runs - 1)) - 1) + 2 * MIB > plan["budget_bytes"]


@pytest.mark.parametrize(("batch_size", "largest", "share"), [(8, 7, 4), (8, 8, 8), (16, 5, 4), (7, 3, 3), (5, 1, 1)])
def test_micro_batches_are_even(batch_size, largest, share):
    assert even_share(batch_size, largest) == share


def test_a_budget_below_the_floor_is_refused_before_step_0(deit_artifact, photo_folder, tmp_path, floor):
    budget = floor - 6 * MIB
    done = run_command(*train_arguments(deit_artifact, photo_folder, tmp_path / "run", budget))
    assert_refused(done, 3, "cannot be met", "--memory-budget")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    plan = run_command("plan", deit_artifact, "--memory-budget", budget, *OPTIONS, "--json")
    assert plan.returncode == 3
    assert plan.json["feasible"] is False
    assert abs(plan.json["minimum_budget_bytes"] - floor) <= 2 * MIB


def test_the_result_does_not_depend_on_the_budget(train):
    """One image at a time, and all sixteen at once: the same losses."""
    losses, sizes = [], []
    for above_floor in (0, 200 * MIB):
        done, _, run = train(above_floor)
        sizes.append(done.json["micro_batch_size"])
        losses.append(step_losses(run))
    assert sizes[0] <= 2
    assert sizes[1] == 16
    # float32 sums in another order, and codes that tip into the next level after an update.
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-3)


def test_evaluation_does_with_the_smallest_budget_of_training(train, deit_artifact, photo_folder, floor):
    adapter = train(0)[2] / "best.safetensors"
    done, peak = run_measured(
        "eval", deit_artifact, "--adapter", adapter, "--data", photo_folder, "--memory-budget", floor, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert peak <= floor
