"""Ends a training where the machine no longer has the memory that was planned, or where this process takes more than
that, so that it can go on in less."""

from typing import TYPE_CHECKING

from edge_s2a.device.memory.budget import smaller_budget
from edge_s2a.errors import MemoryPressure
from edge_s2a.run.schema import PressureLine
from edge_s2a.sizes import format_size
from edge_s2a.system.memory import attainable_bytes, resident_bytes

if TYPE_CHECKING:
    from edge_s2a.device.training_loop import TrainingLoop, TrainingStep


class MemoryPressurePolicy:
    """Raises MemoryPressure, after writing a checkpoint, where continuing in less memory is wise and possible."""

    def after_step(self, loop: "TrainingLoop", step: "TrainingStep") -> None:
        plan, position = loop.trainer.plan, loop.position
        attainable, resident = attainable_bytes(), resident_bytes()
        budget_bytes = smaller_budget(plan, attainable, resident)
        if budget_bytes is None:
            return
        loop.save()
        loop.write(
            PressureLine(step=position.step, attainable_bytes=attainable, rss_bytes=resident, budget_bytes=budget_bytes)
        )
        reason = (
            f"the plan was wrong: this process takes {format_size(resident)}, more than its budget of "
            f"{format_size(plan.budget_bytes)}, while {format_size(attainable)} are available; please report this"
            if resident > plan.budget_bytes
            else f"memory has become scarce: {format_size(attainable)} are available, {format_size(resident)} are in "
            f"use and {format_size(plan.predicted_peak_bytes)} planned"
        )
        raise MemoryPressure(
            f"{reason}; continuing from step {position.step} within {format_size(budget_bytes)}", budget_bytes
        )
