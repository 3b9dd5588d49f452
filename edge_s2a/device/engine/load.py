"""Start-up shared by every device verb that runs the engine: measure, plan, cap the arena, load."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from edge_s2a.artifact.archive import Artifact
from edge_s2a.device.data.collate import Collator
from edge_s2a.device.engine.onnxruntime import Engine, share_threads, use_provider
from edge_s2a.device.memory.available import attainable_bytes
from edge_s2a.device.memory.budget import MemoryPlan, Weights, bytes_of_optimizer, make_plan, measure, smaller_budget
from edge_s2a.device.memory.process import make_allocator_predictable, resident_bytes
from edge_s2a.plan.lifetimes import with_threads
from edge_s2a.plan.verify import verified_plans


@dataclass
class Runtime:
    """An artifact that is loaded and fits its budget."""

    artifact: Artifact
    engine: Engine
    plan: MemoryPlan
    collator: Collator


def default_threads() -> int:
    return psutil.cpu_count(logical=False) or 1


def start_engine(provider: str, threads: int | None) -> int:
    """The number of the engine's threads, by default the physical cores, which all graphs of this process share from
    now on; they run on `provider`. Raises UserError if this engine has none of that kind."""
    use_provider(provider)
    threads = threads or default_threads()
    share_threads(threads)
    return threads


def plan_memory(
    path: Path, budget_bytes: int, batch_size: int, threads: int, optimizer: str | None = None
) -> MemoryPlan:
    """What would run with these settings: training with `optimizer`, or inference alone without. Loads the graphs to
    measure them, and runs nothing."""
    make_allocator_predictable()
    libraries_bytes = resident_bytes()
    artifact = Artifact(path)
    plans = with_threads(verified_plans(artifact), threads)
    engine = Engine(artifact, threads, training=optimizer is not None)
    measured = measure(libraries_bytes)
    weights = Weights(engine.weight_bytes, engine.streamed_weight_bytes)
    del engine  # only now: it was what there was to measure
    return make_plan(
        artifact.manifest,
        {name: plan for name, plan in plans.items() if optimizer or name != "training"},
        weights,
        measured,
        budget_bytes,
        batch_size,
        bytes_of_optimizer(artifact.manifest, optimizer) if optimizer else 0,
    )


def load(path: Path, budget_bytes: int, batch_size: int, threads: int, optimizer: str | None = None) -> Runtime:
    """Raises BudgetError if not even one image at a time fits the budget. Where the machine has less than the budget
    right now, the plan is for what it has.

    The graphs are loaded twice: once to measure what they take, then again with the engine's arena
    limited to what the plan needs. Loading takes tenths of a second.
    """
    plan = plan_memory(path, budget_bytes, batch_size, threads, optimizer)
    plan.require()
    smaller_bytes = smaller_budget(plan, attainable_bytes(), resident_bytes())
    if smaller_bytes is not None:
        plan = plan_memory(path, smaller_bytes, batch_size, threads, optimizer)
        plan.require()
    artifact = Artifact(path)
    engine = Engine(
        artifact,
        threads,
        training=optimizer is not None,
        stream_weights=plan.streams_weights,
        arena_bytes=plan.arena_bytes,
    )
    height, width = artifact.manifest.preprocessing.image_size
    batch = np.zeros((plan.micro_batch_size, 3, height, width), np.float32)
    return Runtime(
        artifact, engine, plan, Collator(engine, batch, artifact.manifest.preprocessing, plan.decode_limit_bytes)
    )
