"""What the tests of one budget share."""

import pytest

from tests.helpers.budgets import OPTIONS
from tests.helpers.commands import run_command


@pytest.fixture(scope="session")
def floor(deit_artifact):
    """The smallest budget that `plan` promises to accept."""
    plan = run_command("plan", deit_artifact, "--memory-budget", "1GiB", *OPTIONS, "--json").json
    assert plan["feasible"]
    return plan["minimum_budget_bytes"]
