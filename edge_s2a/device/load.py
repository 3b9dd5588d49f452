"""Loads an artifact within a memory budget: measure, plan, load. Nothing else on the device knows which engine runs."""

from pathlib import Path

import numpy as np
import psutil

from edge_s2a.artifact.adapter import copy_into, load_adapter
from edge_s2a.artifact.archive import GOLDEN, Artifact
from edge_s2a.artifact.names import IMAGE
from edge_s2a.artifact.tensors import decode
from edge_s2a.device.data.collate import Collator
from edge_s2a.device.engine.base import Engine, EngineSettings
from edge_s2a.device.engine.onnxruntime import THREAD_POOL, OnnxRuntimeEngine, execution_providers
from edge_s2a.device.memory.available import attainable_bytes
from edge_s2a.device.memory.budget import (
    Measured,
    MemoryPlan,
    Weights,
    bytes_of_optimizer,
    make_plan,
    measure,
    smaller_budget,
)
from edge_s2a.device.memory.process import make_allocator_predictable, resident_bytes
from edge_s2a.device.runtime import Runtime
from edge_s2a.plan.arena import preferred_arena_bytes
from edge_s2a.plan.lifetimes import GraphPlan, with_threads
from edge_s2a.plan.verify import verified_plans

INFERENCE_BATCH_SIZE = 4  # as fast as more, and half of what eight images take


def default_threads() -> int:
    """The number of physical cores."""
    return psutil.cpu_count(logical=False) or 1


def start_engine(provider: str, threads: int | None) -> EngineSettings:
    """The settings of all engines that this process will load, whose graphs share `threads` threads from now on.

    provider: one of base.PROVIDERS. threads: by default the physical cores; where the process already shares some,
    there remain as many. Raises UserError if the engine lacks the provider.
    """
    execution_providers(provider)
    return EngineSettings(THREAD_POOL.share(threads or default_threads()), provider)


def load(
    path: Path, budget_bytes: int, batch_size: int, settings: EngineSettings, optimizer: str | None = None
) -> Runtime:
    """Loads an artifact for training with `optimizer`, or for inference alone without one.

    Where the machine has less memory than the budget right now, the plan is for what it has. Raises BudgetError if not
    even one image at a time fits.

    The graphs are loaded twice: once to measure what they take, then with the engine's arena limited to what the plan
    needs. Loading takes tenths of a second.
    """
    plan = plan_memory(path, budget_bytes, batch_size, settings, optimizer)
    plan.require()
    smaller_bytes = smaller_budget(plan, attainable_bytes(), resident_bytes())
    if smaller_bytes is not None:
        plan = plan_memory(path, smaller_bytes, batch_size, settings, optimizer)
        plan.require()
    artifact = Artifact(path)
    engine = OnnxRuntimeEngine(
        artifact,
        settings,
        training=optimizer is not None,
        stream_weights=plan.streams_weights,
        arena_bytes=plan.arena_bytes,
    )
    return Runtime(artifact, engine, plan, _collator(artifact, engine, plan))


def plan_memory(
    path: Path, budget_bytes: int, batch_size: int, settings: EngineSettings, optimizer: str | None = None
) -> MemoryPlan:
    """What `load` would run with the same arguments. Loads the graphs to measure them, and runs nothing."""
    make_allocator_predictable()
    libraries_bytes = resident_bytes()
    artifact = Artifact(path)
    graphs = _planned_graphs(artifact, settings.threads, training=optimizer is not None)
    measured, weights = _measure_loaded(artifact, settings, optimizer is not None, libraries_bytes)
    optimizer_bytes = bytes_of_optimizer(artifact.manifest, optimizer) if optimizer else 0
    return make_plan(artifact.manifest, graphs, weights, measured, budget_bytes, batch_size, optimizer_bytes)


def load_adapted(
    artifact: Path, adapter: Path, budget_bytes: int, settings: EngineSettings
) -> tuple[Runtime, list[str]]:
    """The artifact with a trained adapter, for inference within a memory budget, and the names of its classes.

    Raises BudgetError if not even one image at a time fits, UserError if the adapter does not fit the artifact.
    """
    runtime = load(artifact, budget_bytes, INFERENCE_BATCH_SIZE, settings)
    tensors, classes = load_adapter(adapter, runtime.artifact.manifest)
    copy_into(runtime.engine.adapter, tensors)
    return runtime, classes


def load_for_check(path: Path, settings: EngineSettings) -> tuple[Artifact, dict[str, np.ndarray], Engine]:
    """The artifact, every checksum verified; its golden step; and an engine with just the memory that the plan promises
    for the golden batch. Raises CheckError for a wrong checksum or plan."""
    make_allocator_predictable()
    artifact = Artifact(path)
    for member in artifact.manifest.members:
        artifact.verify(member)
    graphs = _planned_graphs(artifact, settings.threads, training=True)
    golden, _ = decode(artifact.read(GOLDEN), f"{GOLDEN} of {path}")
    arena_bytes = preferred_arena_bytes(graphs, len(golden[IMAGE]))
    return artifact, golden, OnnxRuntimeEngine(artifact, settings, arena_bytes=arena_bytes)


def _planned_graphs(artifact: Artifact, threads: int, training: bool) -> dict[str, GraphPlan]:
    """The memory plans of the programs that will run."""
    plans = with_threads(verified_plans(artifact), threads)
    return {name: plan for name, plan in plans.items() if training or name != "training"}


def _measure_loaded(
    artifact: Artifact, settings: EngineSettings, training: bool, libraries_bytes: int
) -> tuple[Measured, Weights]:
    engine = OnnxRuntimeEngine(artifact, settings, training)
    measured = measure(libraries_bytes)  # while there is an engine to measure
    return measured, Weights(engine.weight_bytes, engine.streamed_weight_bytes)


def _collator(artifact: Artifact, engine: Engine, plan: MemoryPlan) -> Collator:
    preprocessing = artifact.manifest.preprocessing
    batch = np.zeros((plan.micro_batch_size, 3, *preprocessing.image_size), np.float32)
    return Collator(engine, batch, preprocessing, plan.decode_limit_bytes)
