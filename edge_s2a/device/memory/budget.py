"""Finds the micro-batch that fits a memory budget.

The budget bounds the peak resident memory of the whole process. The memory in use at start-up is measured (interpreter,
libraries, loaded graphs); the memory that a run adds is computed (weights, the engine's arena, optimizer, data); a
small reserve, stated here, covers the rest.
"""

import math
from dataclasses import dataclass

from edge_s2a.artifact.manifest import Manifest
from edge_s2a.device.data.feature_cache import code_bytes
from edge_s2a.device.data.loader import queue_capacity
from edge_s2a.device.memory.available import less_reserve
from edge_s2a.device.memory.index import IndexMemory
from edge_s2a.device.optim.optimizer import STATE_ARRAYS
from edge_s2a.errors import BudgetError, CheckError
from edge_s2a.plan.arena import (
    arena_peak,
    largest_batch,
    preferred_arena_bytes,
    region_overhead,
    resident_arena_bytes,
    smallest_arena_bytes,
)
from edge_s2a.plan.lifetimes import GraphPlan
from edge_s2a.plan.verify import placement_errors
from edge_s2a.sizes import MIB, format_size
from edge_s2a.system.memory import peak_resident_bytes, resident_bytes

# For decoding one image: data.decoding.decode_bytes computes what it takes.
DECODE_RESERVE_BYTES = 3 * MIB
# Thread stacks, the engine's frames, pages of its code that the first run touches, growth of Python's heap, a decoder's
# tables: measured up to 5 MiB.
RUN_RESERVE_BYTES = 5 * MIB
# Memory is scarce when the machine or a cgroup leaves less than this. A cgroup limited to the budget leaves more:
# mapped files, some 30 MiB of libraries alone, do not count there.
LEAST_FREE_BYTES = 16 * MIB


@dataclass(frozen=True)
class MemoryPlan:
    """What runs under a budget, and the parts of its predicted peak (bytes)."""

    budget_bytes: int
    batch_size: int  # effective: images per optimizer step
    micro_batch_size: int  # images per run of the training program; 0 if not even one fits
    predicted_peak_bytes: int  # with that micro-batch, or with one image
    minimum_budget_bytes: int  # the smallest budget that is certain to be accepted
    streams_weights: bool  # whether frozen weights are read from the file for each graph
    parts: dict[str, int]  # of predicted_peak_bytes
    arena_bytes: int  # the size of the engine's arena: its hard limit

    @property
    def feasible(self) -> bool:
        return self.micro_batch_size > 0

    @property
    def decode_limit_bytes(self) -> int:
        """The memory that decoding an image may take: the reserve, and what the plan leaves of the budget."""
        return DECODE_RESERVE_BYTES + self.budget_bytes - self.predicted_peak_bytes

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


@dataclass(frozen=True)
class Weights:
    """Resident bytes of the mapped frozen weights."""

    whole_bytes: int
    streamed_bytes: int  # the most that one call of a program reads


def measure(libraries_bytes: int, index: IndexMemory) -> Measured:
    """Measures this process, with everything loaded, and without the index of its images, which a plan counts as a part
    of its own. libraries_bytes: resident before anything was."""
    return Measured(libraries_bytes - index.now_bytes, resident_bytes() - index.now_bytes, peak_resident_bytes())


def make_plan(
    manifest: Manifest,
    graphs: dict[str, GraphPlan],
    weights: Weights,
    measured: Measured,
    budget_bytes: int,
    batch_size: int,
    held_bytes: dict[str, int],
) -> MemoryPlan:
    """Plans as few micro-batches as the budget allows, as even as possible. Frozen weights stay in memory only where
    that leaves room for the whole batch, because reading them again costs little time.

    graphs: the programs that will run. held_bytes: what else is in memory all the time, by the name of the part. Raises
    CheckError if the placement of the graphs' buffers is not sound.
    """
    fixed = {
        "interpreter and libraries": measured.libraries_bytes,
        "graphs and adapter": measured.loaded_bytes - measured.libraries_bytes,
        **held_bytes,
        "reserve": RUN_RESERVE_BYTES,
    }

    def peak(batch: int, weight_bytes: int, region_bytes: int) -> int:
        """With all of the arena's region resident."""
        outside_bytes = sum(fixed.values()) + weight_bytes + data_bytes(manifest, batch)
        return max(outside_bytes + region_bytes + region_overhead(region_bytes), measured.peak_bytes)

    def least_peak(batch: int, weight_bytes: int) -> int:
        return peak(batch, weight_bytes, smallest_arena_bytes(graphs, batch))

    streams_weights = least_peak(batch_size, weights.whole_bytes) > budget_bytes
    weight_bytes = weights.streamed_bytes if streams_weights else weights.whole_bytes
    largest = largest_batch(lambda batch: least_peak(batch, weight_bytes) <= budget_bytes, batch_size)
    # Seven images and then one take as many runs as four and four, but more memory.
    micro_batch = even_share(batch_size, largest) if largest else 0
    batch = max(1, micro_batch)
    # Where the budget leaves room, the arena gets some: pages that it never touches cost only their bookkeeping.
    region_bytes = preferred_arena_bytes(graphs, batch)
    if peak(batch, weight_bytes, region_bytes) > budget_bytes:
        region_bytes = smallest_arena_bytes(graphs, batch)
    if errors := placement_errors(graphs, batch, region_bytes):
        raise CheckError(f"the planner is wrong: {errors[0]}; report this with your artifact")
    resident_bytes = resident_arena_bytes(graphs, batch, region_bytes)
    live_bytes = arena_peak(graphs, batch).live_bytes
    saved_bytes = resident_bytes * live_bytes["saved"] // sum(live_bytes.values())
    parts = {
        **fixed,
        "weights": weight_bytes,
        "saved tensors": saved_bytes,
        "workspace": resident_bytes - saved_bytes + region_overhead(region_bytes),
        "data": data_bytes(manifest, batch),
    }
    return MemoryPlan(
        budget_bytes,
        batch_size,
        micro_batch,
        max(sum(parts.values()), measured.peak_bytes),
        # One MiB more than needed: what is measured at start-up varies by some pages.
        (-(-least_peak(1, weights.streamed_bytes) // MIB) + 1) * MIB,
        streams_weights,
        parts,
        region_bytes,
    )


def even_share(batch_size: int, largest: int) -> int:
    """The smallest micro-batch that needs no more runs for `batch_size` images than `largest` does."""
    runs = -(-batch_size // largest)
    return -(-batch_size // runs)


def smaller_budget(plan: MemoryPlan, attainable_bytes: int, resident_bytes: int) -> int | None:
    """The budget with which to continue where memory has become scarce; None where the plan still holds, or where no
    smaller budget is possible.

    attainable_bytes: the memory that the machine and its cgroups now let this process have. resident_bytes: the memory
    that it has; if that exceeds the budget, the plan was wrong by the excess.
    """
    excess_bytes = max(0, resident_bytes - plan.budget_bytes)
    needed_bytes = max(plan.predicted_peak_bytes, resident_bytes) + LEAST_FREE_BYTES
    if attainable_bytes >= needed_bytes and not excess_bytes:
        return None
    budget_bytes = min(less_reserve(attainable_bytes), plan.predicted_peak_bytes - excess_bytes)
    budget_bytes = max(budget_bytes, plan.minimum_budget_bytes)
    return budget_bytes if budget_bytes < plan.predicted_peak_bytes else None


def bytes_of_optimizer(manifest: Manifest, optimizer: str) -> int:
    """Bytes of the optimizer's state, the gradient sums, and the best adapter so far: 4 per parameter each."""
    return 4 * manifest.trainable_parameters * (STATE_ARRAYS[optimizer] + 2)


def data_bytes(manifest: Manifest, batch: int) -> int:
    """Bytes of the float32 batch, of the uint8 images that wait in the queue, and of decoding one more. An artifact
    with features adds those of the batch, those of one image while they are computed, and their codes in the queue
    where codes are larger than images."""
    height, width = manifest.preprocessing.image_size
    pixels = 3 * height * width
    features_bytes = 4 * sum(math.prod(shape) for shape in manifest.features.values())
    waiting_bytes = max(pixels, code_bytes(manifest.features))
    batch_bytes = 4 * pixels * batch + features_bytes * (batch + 1)
    return batch_bytes + (queue_capacity(batch) + 2) * waiting_bytes + DECODE_RESERVE_BYTES
