"""How much of the memory that this process can have a budget may claim."""

from edge_s2a.errors import UserError
from edge_s2a.sizes import MIB, parse_size
from edge_s2a.system.memory import attainable_bytes

# Left to the rest of the system, where another process may need some while a step runs.
RESERVE_BYTES = 32 * MIB
RESERVE_SHARE = 0.1


def parse_budget(budget: int | str) -> int:
    """Returns the bytes of `--memory-budget`: a size, or for "auto" what is attainable now less the reserve. Raises
    UserError for text that is no size, and where nothing is left."""
    if isinstance(budget, int):
        return budget
    if budget != "auto":
        return parse_size(budget)
    budget_bytes = less_reserve(attainable_bytes())
    if budget_bytes <= 0:
        raise UserError("the machine or its cgroup leaves no memory; end other programs, or raise the limit")
    return budget_bytes


def less_reserve(attainable: int) -> int:
    """Bytes that a budget may claim of `attainable` bytes."""
    return attainable - max(RESERVE_BYTES, int(RESERVE_SHARE * attainable))
