"""What the tests of one budget share."""

import pytest

from tests.conftest import run_command

OPTIONS = ["--batch-size", 16, "--threads", 2]


def train_arguments(artifact, data, run, budget, *options) -> list:
    return [
        "train", artifact, "--data", data, "--val-data", data, "--output", run, "--epochs", 1,
        "--memory-budget", budget, *OPTIONS, *options, "--json",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def floor(deit_artifact):
    """The smallest budget that `plan` promises to accept."""
    plan = run_command("plan", deit_artifact, "--memory-budget", "1GiB", *OPTIONS, "--json").json
    assert plan["feasible"]
    return plan["minimum_budget_bytes"]
