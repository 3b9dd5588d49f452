"""Start-up shared by every device verb that runs the engine: measure, plan, cap the arena, load."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from edge_s2a.artifact.archive import PLAN, Artifact
from edge_s2a.device.budget import MemoryPlan, Weights, make_plan, measure
from edge_s2a.device.memory import make_allocator_predictable, resident_bytes
from edge_s2a.device.session import Engine, limit_arena
from edge_s2a.plan.arena import roomy_region
from edge_s2a.plan.lifetimes import from_json

EVAL_BATCH_SIZE = 4  # as fast as more, and half of what eight images take


@dataclass
class Runtime:
    """An artifact that is loaded and fits its budget."""

    artifact: Artifact
    engine: Engine
    plan: MemoryPlan


def default_threads() -> int:
    return psutil.cpu_count(logical=False) or 1


def plan_memory(path: Path, budget_bytes: int, batch_size: int, optimizer: str, threads: int) -> MemoryPlan:
    """What `train` would do with these settings. Loads the graphs to measure them, and runs nothing."""
    make_allocator_predictable()
    libraries_bytes = resident_bytes()
    artifact = Artifact(path)
    engine = Engine(artifact, threads)
    measured = measure(libraries_bytes)
    weights = Weights(engine.weight_bytes, engine.streamed_weight_bytes)
    del engine  # only now: it was what there was to measure
    return make_plan(
        artifact.manifest,
        from_json(artifact.read(PLAN), str(path)),
        weights,
        measured,
        budget_bytes,
        batch_size,
        optimizer,
    )


def load_for_training(path: Path, budget_bytes: int, batch_size: int, optimizer: str, threads: int) -> Runtime:
    """Raises BudgetError if not even one image at a time fits the budget.

    The graphs are loaded twice: once to measure what they take, then again with the engine's arena
    limited to what the plan needs. Loading takes tenths of a second.
    """
    plan = plan_memory(path, budget_bytes, batch_size, optimizer, threads)
    plan.require()
    limit_arena(plan.arena_bytes)
    artifact = Artifact(path)
    return Runtime(artifact, Engine(artifact, threads, stream_weights=plan.streams_weights), plan)


def load_for_inference(path: Path, threads: int) -> tuple[Artifact, Engine, np.ndarray]:
    """(artifact, engine with the inference graph alone, buffer for a batch of EVAL_BATCH_SIZE images)."""
    make_allocator_predictable()
    artifact = Artifact(path)
    plans = from_json(artifact.read(PLAN), str(path))
    limit_arena(roomy_region({"inference": plans["inference"]}, EVAL_BATCH_SIZE))
    height, width = artifact.manifest.preprocessing.image_size
    batch = np.empty((EVAL_BATCH_SIZE, 3, height, width), np.float32)
    return artifact, Engine(artifact, threads, training=False), batch


def set_adapter(engine: Engine, tensors: dict[str, np.ndarray]) -> None:
    """Copies `tensors` into the arrays that the engine reads."""
    for name, array in engine.adapter.items():
        array[...] = tensors[name]
