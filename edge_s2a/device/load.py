"""Loads an artifact within a memory budget: measure, plan, load. Nothing else on the device knows which engine runs."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_s2a.artifact.archive import GOLDEN, Artifact
from edge_s2a.artifact.manifest import Manifest
from edge_s2a.artifact.names import IMAGE
from edge_s2a.artifact.program import ALL, TO_INFER, TO_TRAIN
from edge_s2a.artifact.tensors import decode
from edge_s2a.device.data.collate import Collator
from edge_s2a.device.engine.base import Engine, EngineSettings
from edge_s2a.device.engine.onnxruntime import THREAD_POOL, OnnxRuntimeEngine, execution_providers
from edge_s2a.device.memory.budget import (
    Measured,
    MemoryPlan,
    Weights,
    bytes_of_optimizer,
    make_plan,
    measure,
    smaller_budget,
)
from edge_s2a.device.memory.index import NO_INDEX, IndexMemory
from edge_s2a.device.runtime import Runtime
from edge_s2a.errors import UserError
from edge_s2a.plan.arena import preferred_arena_bytes
from edge_s2a.plan.lifetimes import GraphPlan, with_threads
from edge_s2a.plan.verify import verified_plans
from edge_s2a.system.memory import attainable_bytes, make_allocator_predictable, resident_bytes
from edge_s2a.system.processors import usable_cores

INFERENCE_BATCH_SIZE = 4  # as fast as more, and half of what eight images take


def start_engine(provider: str, threads: int | None) -> EngineSettings:
    """The settings of all engines that this process will load, whose graphs share `threads` threads from now on.

    provider: one of base.PROVIDERS. threads: by default the physical cores that this process may use; where
    the process already shares some, there remain as many. Raises UserError if the engine lacks the provider.
    """
    execution_providers(provider)
    return EngineSettings(THREAD_POOL.share(threads or usable_cores()), provider)


class Measurement(NamedTuple):
    """An artifact, and what its graphs take in this process: what a plan is made from."""

    artifact: Artifact
    graphs: dict[str, GraphPlan]  # the memory plans of the programs that will run
    weights: Weights
    measured: Measured
    image_index: IndexMemory

    def plan(self, budget_bytes: int, batch_size: int, held_bytes: dict[str, int]) -> MemoryPlan:
        """See `make_plan`."""
        return make_plan(
            self.artifact.manifest, self.graphs, self.weights, self.measured, budget_bytes, batch_size,
            self.image_index.held_bytes | held_bytes,
        )  # fmt: skip


def measure_loaded(
    path: Path, settings: EngineSettings, programs: Collection[str], index: IndexMemory = NO_INDEX
) -> Measurement:
    """Loads the graphs of these programs to measure them, and runs nothing. Takes tenths of a second. index: of the
    images that will be read."""
    make_allocator_predictable()
    libraries_bytes = resident_bytes()
    artifact = Artifact(path)
    graphs = _planned_graphs(artifact, settings.threads, programs)
    engine = OnnxRuntimeEngine(artifact, settings, programs)
    measured = measure(libraries_bytes, index)  # while there is an engine to measure
    weights = Weights(engine.weight_bytes, engine.streamed_weight_bytes)
    return Measurement(artifact, graphs, weights, measured, index)


def load(
    path: Path,
    budget_bytes: int,
    batch_size: int,
    settings: EngineSettings,
    optimizer: str | None = None,
    index: IndexMemory = NO_INDEX,
) -> Runtime:
    """Loads an artifact for training with `optimizer`, or for inference alone without one. index: of the images that
    will be read.

    Where the machine has less memory than the budget right now, the plan is for what it has. Raises BudgetError if not
    even one image at a time fits, UserError if the artifact cannot be trained.

    The graphs are loaded twice: once to measure what they take, then with the engine's arena limited to what the plan
    needs.
    """
    measurement = _measure_to_run(path, settings, optimizer, index)
    plan = within_budget(lambda limit: _plan(measurement, limit, batch_size, optimizer), budget_bytes)
    return load_planned(path, settings, TO_TRAIN if optimizer else TO_INFER, plan)


def plan_memory(
    path: Path,
    budget_bytes: int,
    batch_size: int,
    settings: EngineSettings,
    optimizer: str | None = None,
    index: IndexMemory = NO_INDEX,
) -> MemoryPlan:
    """What `load` would run with the same arguments."""
    return _plan(_measure_to_run(path, settings, optimizer, index), budget_bytes, batch_size, optimizer)


def within_budget(plan_for: Callable[[int], MemoryPlan], budget_bytes: int) -> MemoryPlan:
    """`plan_for(budget_bytes)`, or the plan for what the machine has where that is less right now. Raises BudgetError
    if not even one image at a time fits."""
    plan = plan_for(budget_bytes)
    plan.require()
    smaller_bytes = smaller_budget(plan, attainable_bytes(), resident_bytes())
    if smaller_bytes is not None:
        plan = plan_for(smaller_bytes)
        plan.require()
    return plan


def load_planned(path: Path, settings: EngineSettings, programs: Collection[str], plan: MemoryPlan) -> Runtime:
    """Loads these programs with the memory that the plan gives them."""
    artifact = Artifact(path)
    engine = OnnxRuntimeEngine(
        artifact, settings, programs, stream_weights=plan.streams_weights, arena_bytes=plan.arena_bytes
    )
    return Runtime(artifact, engine, plan, _collator(artifact, engine, plan))


def require_adapter(path: Path) -> Manifest:
    """The manifest of an artifact that can be trained. Raises UserError if it is none."""
    manifest = Artifact(path).manifest
    if not manifest.can_train:
        raise UserError(
            f"{path} has no adapter, it only learns in one pass: use edge-s2a learn, and the knowledge file that it "
            "writes as --adapter, or repack without --adapter none"
        )
    return manifest


def _measure_to_run(path: Path, settings: EngineSettings, optimizer: str | None, index: IndexMemory) -> Measurement:
    require_adapter(path)
    return measure_loaded(path, settings, TO_TRAIN if optimizer else TO_INFER, index)


def _plan(measurement: Measurement, budget_bytes: int, batch_size: int, optimizer: str | None) -> MemoryPlan:
    optimizer_bytes = bytes_of_optimizer(measurement.artifact.manifest, optimizer) if optimizer else 0
    return measurement.plan(budget_bytes, batch_size, {"optimizer": optimizer_bytes})


def load_for_check(path: Path, settings: EngineSettings) -> tuple[Artifact, dict[str, np.ndarray], Engine]:
    """The artifact, every checksum verified; its golden step; and an engine with just the memory that the plan promises
    for the golden batch. Raises CheckError for a wrong checksum or plan."""
    make_allocator_predictable()
    artifact = Artifact(path)
    for member in artifact.manifest.members:
        artifact.verify(member)
    graphs = _planned_graphs(artifact, settings.threads, ALL)
    golden, _ = decode(artifact.read(GOLDEN), f"{GOLDEN} of {path}")
    if IMAGE not in golden or golden[IMAGE].ndim != 4 or not len(golden[IMAGE]):
        raise UserError(f"the golden step of {path} has no images; repack the model")
    arena_bytes = preferred_arena_bytes(graphs, len(golden[IMAGE]))
    return artifact, golden, OnnxRuntimeEngine(artifact, settings, arena_bytes=arena_bytes)


def _planned_graphs(artifact: Artifact, threads: int, programs: Collection[str]) -> dict[str, GraphPlan]:
    """The memory plans of the programs that will run."""
    return with_threads(verified_plans(artifact, programs), threads)


def _collator(artifact: Artifact, engine: Engine, plan: MemoryPlan) -> Collator:
    preprocessing = artifact.manifest.preprocessing
    batch = np.zeros((plan.micro_batch_size, 3, *preprocessing.image_size), np.float32)
    return Collator(engine, batch, preprocessing, plan.decode_limit_bytes)
