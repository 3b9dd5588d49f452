"""Tells whether a command kept its memory budget, once it is done."""

import sys

from edge_s2a.errors import BudgetError
from edge_s2a.sizes import format_size
from edge_s2a.system.which import IS_LINUX, PEAK


def peak_row(peak_bytes: int, budget_bytes: int) -> tuple[str, object]:
    """The row of a summary."""
    text = format_size(peak_bytes) + ("" if IS_LINUX else f" ({PEAK})")
    return "measured peak", text if peak_bytes <= budget_bytes else f"{text}, ABOVE THE BUDGET"


def exit_code(command: str, peak_bytes: int, budget_bytes: int) -> int:
    """0, or that of BudgetError, with a line on standard error, where the peak was above the budget."""
    if peak_bytes <= budget_bytes:
        return 0
    print(
        f"edge-s2a {command}: done, but the peak of {format_size(peak_bytes)} was above the memory budget of "
        f"{format_size(budget_bytes)}; give a larger one, and please report this: the plan was wrong",
        file=sys.stderr,
    )
    return BudgetError.exit_code
