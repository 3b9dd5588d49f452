"""`edge-s2a plan`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_s2a.cli.command import Command
from edge_s2a.cli.output import Output
from edge_s2a.options import PlanOptions
from edge_s2a.sizes import format_size
from edge_s2a.system.which import NOTE

if TYPE_CHECKING:
    from edge_s2a.device.memory.budget import MemoryPlan

LEARNED_IMAGES = 1000


def run(options: PlanOptions, output: Output) -> int:
    from edge_s2a.artifact.archive import Artifact

    if options.learn is not None or not Artifact(Path(options.artifact)).manifest.can_train:
        return plan_learning(options, output)
    import edge_s2a.device.training_run  # noqa: F401 - the plan measures everything that training imports
    from edge_s2a.device.load import plan_memory, start_engine
    from edge_s2a.device.memory.available import parse_budget
    from edge_s2a.device.memory.index import usual_index_memory

    budget_bytes = parse_budget(options.memory_budget)
    settings = start_engine(options.provider, options.threads)
    index = usual_index_memory(Artifact(Path(options.artifact)).manifest, options.images)
    memory = plan_memory(Path(options.artifact), budget_bytes, options.batch_size, settings, options.optimizer, index)
    micro_batch = f"{memory.micro_batch_size} of {memory.batch_size} images"
    show(memory, {"batch_size": memory.batch_size}, [("micro-batch", micro_batch)], output)
    return 0


def plan_learning(options: PlanOptions, output: Output) -> int:
    import edge_s2a.device.learning_run  # noqa: F401 - the plan measures everything that learning imports
    from edge_s2a.artifact.archive import Artifact
    from edge_s2a.artifact.program import TO_LEARN
    from edge_s2a.codec.features import Layout
    from edge_s2a.device.learning_plan import Expected, plan_learning
    from edge_s2a.device.load import measure_loaded, start_engine
    from edge_s2a.device.memory.available import parse_budget
    from edge_s2a.device.memory.index import usual_index_memory

    budget_bytes = parse_budget(options.memory_budget)
    settings = start_engine(options.provider, options.threads)
    images = options.learn or LEARNED_IMAGES
    index = usual_index_memory(Artifact(Path(options.artifact)).manifest, images)
    measurement = measure_loaded(Path(options.artifact), settings, TO_LEARN, index)
    layout = Layout("float16", measurement.artifact.manifest.taps)
    expected = Expected(images, 0, None, options.classes)
    memory, form = plan_learning(measurement, layout, expected, budget_bytes)
    used = layout.width - layout.first_column(form.groups)
    facts = {
        "images": images,
        "form": form.kind,
        "features": layout.width,
        "used_features": used,
        "block_rows": form.block_rows,
    }
    rows: list[tuple[str, object]] = [
        ("learns", f"{images} images of {options.classes} classes, {memory.micro_batch_size} at a time"),
        ("closed form", f"{form.kind}, {used} of {layout.width} features, {form.block_rows} rows at a time"),
    ]
    show(memory, facts, rows, output)
    return 0


def show(memory: "MemoryPlan", facts: dict[str, Any], what: list[tuple[str, object]], output: Output) -> None:
    """Prints a plan. Raises BudgetError unless it is feasible."""
    result = {
        "feasible": memory.feasible,
        **facts,
        "micro_batch_size": memory.micro_batch_size,
        "predicted_peak_bytes": memory.predicted_peak_bytes,
        "minimum_budget_bytes": memory.minimum_budget_bytes,
        "budget_bytes": memory.budget_bytes,
        "streams_weights": memory.streams_weights,
        "parts": memory.parts,
    }
    if not memory.feasible:
        what = [("micro-batch", "none fits; the parts are those of one image")]
    rows = [
        ("memory budget", f"{format_size(memory.budget_bytes):>12}"),
        ("smallest budget", f"{format_size(memory.minimum_budget_bytes):>12}"),
        *what,
        ("frozen weights", "read when needed" if memory.streams_weights else "stay in memory"),
        ("predicted peak", f"{format_size(memory.predicted_peak_bytes):>12}"),
        *((f"  {name}", f"{format_size(size):>12}") for name, size in memory.parts.items()),
        *([("limits", NOTE)] if NOTE else []),
    ]
    output.show(result, rows)
    memory.require()


COMMAND = Command("plan", "show what would run within a memory budget", PlanOptions, run)
