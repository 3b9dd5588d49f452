"""Tells that the engine's threads wait for processors, where fewer of them would be faster.

Threads of an engine spin: each that has no processor holds up all others. How many there may be is counted before
(`system.processors`), but a container may hide it, and other programs may be busy.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_s2a.device.training_loop import TrainingLoop, TrainingStep

STEPS = 5  # that are measured, after the first
TASKS = Path("/proc/self/task")


class Contention:
    """Measures the first steps of a process, and says once what it found."""

    def __init__(self) -> None:
        self._steps = 0
        self._start: tuple[float, float] | None = None

    def after_step(self, loop: "TrainingLoop", step: "TrainingStep") -> None:
        self._steps += 1
        if self._steps == 1:
            self._start = moment()
        elif self._steps == 1 + STEPS and self._start is not None and (now := moment()) is not None:
            threads = loop.trainer.engine_settings.threads
            seconds, waited_s = (after - before for after, before in zip(now, self._start, strict=True))
            fewer = threads_with_processors(threads, seconds, waited_s)
            if fewer < threads:
                loop.progress.message(
                    f"{threads} threads wait for processors, as if there were {fewer}: --threads {fewer} is likely to "
                    "be faster"
                )


def threads_with_processors(threads: int, seconds: float, waited_s: float) -> int:
    """How many of the threads had a processor, on average, rounded; at least 1. waited_s: what all threads of the
    process together waited for one, in that time."""
    return max(1, min(threads, round(threads - waited_s / seconds)))


def moment() -> tuple[float, float] | None:
    """(time, seconds that threads of this process have waited for a processor so far); None where the kernel does not
    tell."""
    waited_ns = 0
    try:
        for task in TASKS.iterdir():
            waited_ns += int((task / "schedstat").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return time.monotonic(), waited_ns / 1e9
