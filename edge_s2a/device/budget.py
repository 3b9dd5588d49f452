"""From a memory budget to the micro-batch that fits it: measure, reserve, then run.

The budget bounds the peak resident memory of the whole process. What is there already is measured
(interpreter, libraries, the loaded graphs); what will come is computed (weights, the engine's arena,
optimizer, data); a small reserve, stated here, covers the rest.
"""

from dataclasses import dataclass

from edge_s2a.artifact.manifest import Manifest
from edge_s2a.device.memory import MIB, format_size, peak_resident_bytes, resident_bytes
from edge_s2a.device.optimizer import STATE_ARRAYS
from edge_s2a.errors import BudgetError
from edge_s2a.plan.arena import Peak, largest_batch, simulate
from edge_s2a.plan.lifetimes import Lifetime

# Decoding one image of up to a million pixels: Pillow's image, its RGB copy, the resized one.
DECODE_RESERVE_BYTES = 6 * MIB
# Thread stacks, the engine's frames, growth of Python's heap during a run: measured 1 to 4 MiB.
RUN_RESERVE_BYTES = 4 * MIB
# What the engine puts into the arena beside the planned buffers: constants of the graphs.
ARENA_SLACK_BYTES = MIB // 2


@dataclass(frozen=True)
class MemoryPlan:
    """What would run under a budget, and what its predicted peak is made of (bytes)."""

    budget_bytes: int
    batch_size: int  # effective: images an optimizer step
    micro_batch_size: int  # images a run of the training graph; 0 if not even one fits
    predicted_peak_bytes: int  # with that micro-batch, or with one image
    minimum_budget_bytes: int  # the smallest budget that is certain to be accepted
    parts: dict[str, int]  # of predicted_peak_bytes
    arena_limit_bytes: int  # what the budget leaves to the engine's arena

    @property
    def feasible(self) -> bool:
        return self.micro_batch_size > 0

    def require(self) -> None:
        """Raises BudgetError unless the plan is feasible."""
        if not self.feasible:
            raise BudgetError(
                f"a memory budget of {format_size(self.budget_bytes)} cannot be met: one image at a time "
                f"needs {format_size(self.predicted_peak_bytes)}; give --memory-budget "
                f"{-(-self.minimum_budget_bytes // MIB)}MiB or more",
                self.minimum_budget_bytes,
            )


@dataclass(frozen=True)
class Measured:
    """Resident bytes at three moments of start-up."""

    libraries_bytes: int  # after all imports
    loaded_bytes: int  # with sessions, adapter and optimizer created, before the first run
    peak_bytes: int  # the most so far


def measure(libraries_bytes: int) -> Measured:
    return Measured(libraries_bytes, resident_bytes(), peak_resident_bytes())


def make_plan(
    manifest: Manifest,
    lifetimes: dict[str, list[Lifetime]],
    weight_bytes: int,
    measured: Measured,
    budget_bytes: int,
    batch_size: int,
    optimizer: str,
) -> MemoryPlan:
    """The largest micro-batch, at most `batch_size`, whose predicted peak fits the budget."""

    def predict(batch: int) -> tuple[int, dict[str, int], int]:
        peak = arena_peak(lifetimes, batch)
        live = max(1, sum(peak.live_bytes.values()))
        saved = peak.arena_bytes * peak.live_bytes["saved"] // live
        parts = {
            "interpreter and libraries": measured.libraries_bytes,
            "graphs and adapter": measured.loaded_bytes - measured.libraries_bytes,
            "weights": weight_bytes,
            "saved tensors": saved,
            "workspace": peak.arena_bytes - saved,
            "optimizer": optimizer_bytes(manifest, optimizer),
            "data": data_bytes(manifest, batch),
            "reserve": RUN_RESERVE_BYTES,
        }
        return max(sum(parts.values()), measured.peak_bytes), parts, peak.arena_bytes

    micro_batch = largest_batch(lambda batch: predict(batch)[0] <= budget_bytes, batch_size)
    predicted, parts, arena_bytes = predict(max(1, micro_batch))
    least = predict(1)[0]
    return MemoryPlan(
        budget_bytes,
        batch_size,
        micro_batch,
        predicted,
        # One MiB more than needed: what is measured at start-up varies by some pages.
        (-(-least // MIB) + 1) * MIB,
        parts,
        budget_bytes - (predicted - arena_bytes),
    )


def arena_peak(lifetimes: dict[str, list[Lifetime]], batch: int) -> Peak:
    """The peak of training and of validation at the same batch size, whichever is higher."""
    return max((simulate(graph, batch) for graph in lifetimes.values()), key=lambda peak: peak.arena_bytes)


def optimizer_bytes(manifest: Manifest, optimizer: str) -> int:
    """State, gradient sums, and the best adapter so far; 4 bytes a parameter each."""
    return 4 * manifest.trainable_parameters * (STATE_ARRAYS[optimizer] + 2)


def data_bytes(manifest: Manifest, batch: int) -> int:
    """The float32 batch, the uint8 images waiting in the queue, and the decoding of one more."""
    height, width = manifest.preprocessing.image_size
    return 3 * height * width * (4 * batch + queue_capacity(batch) + 2) + DECODE_RESERVE_BYTES


def queue_capacity(batch: int) -> int:
    return batch + 1
