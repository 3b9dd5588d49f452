"""Every error a user can meet. Each message says what is wrong, where, and what to do."""


class UserError(Exception):
    """Bad input: arguments, data, artifact or adapter. Ends the command with exit code 2."""

    exit_code = 2


class BudgetError(UserError):
    """The memory budget cannot be met. Ends the command with exit code 3.

    `minimum_budget_bytes` is the smallest budget that can be met.
    """

    exit_code = 3

    def __init__(self, message: str, minimum_budget_bytes: int):
        super().__init__(message)
        self.minimum_budget_bytes = minimum_budget_bytes


class MemoryPressure(UserError):
    """Training ended early, with a checkpoint, for memory has become scarce: `budget_bytes` is left for going on.
    The command goes on by itself."""

    def __init__(self, message: str, budget_bytes: int):
        super().__init__(message)
        self.budget_bytes = budget_bytes


class CheckError(UserError):
    """A self-check failed: a checksum or the golden step. Ends the command with exit code 4."""

    exit_code = 4


class ArenaExhausted(UserError):
    """The engine refused an allocation beyond its arena: the plan was wrong. Exit code 3."""

    exit_code = 3
