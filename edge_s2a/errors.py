"""Every error that a user can meet. Each message says what is wrong, where, and what to do."""


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
    """Training stopped early, with a checkpoint, because memory has become scarce; it can resume within `budget_bytes`.
    The command does so by itself."""

    def __init__(self, message: str, budget_bytes: int):
        super().__init__(message)
        self.budget_bytes = budget_bytes


class CheckError(UserError):
    """A self-check failed: a checksum, the memory plan or the golden step. Ends the command with exit code 4."""

    exit_code = 4


class EngineError(UserError):
    """The engine failed while it ran a graph, for any reason but memory. Ends the command with exit code 4."""

    exit_code = 4


class ArenaExhausted(UserError):
    """The engine needed more memory than its arena has: the plan was wrong. Ends the command with exit code 3."""

    exit_code = 3
