"""`edge-s2a plan`."""

from pathlib import Path

from edge_s2a.cli.command import Command
from edge_s2a.cli.output import Output
from edge_s2a.options import PlanOptions
from edge_s2a.sizes import format_size


def run(options: PlanOptions, output: Output) -> int:
    import edge_s2a.device.training_run  # noqa: F401 - the plan measures everything that training imports
    from edge_s2a.device.load import plan_memory, start_engine
    from edge_s2a.device.memory.available import parse_budget

    budget_bytes = parse_budget(options.memory_budget)
    settings = start_engine(options.provider, options.threads)
    memory = plan_memory(Path(options.artifact), budget_bytes, options.batch_size, settings, options.optimizer)
    result = {
        "feasible": memory.feasible,
        "batch_size": memory.batch_size,
        "micro_batch_size": memory.micro_batch_size,
        "predicted_peak_bytes": memory.predicted_peak_bytes,
        "minimum_budget_bytes": memory.minimum_budget_bytes,
        "budget_bytes": memory.budget_bytes,
        "streams_weights": memory.streams_weights,
        "parts": memory.parts,
    }
    micro_batch = f"{memory.micro_batch_size} of {memory.batch_size} images"
    if not memory.feasible:
        micro_batch = "none fits; the parts are those of one image"
    rows = [
        ("memory budget", f"{format_size(memory.budget_bytes):>12}"),
        ("smallest budget", f"{format_size(memory.minimum_budget_bytes):>12}"),
        ("micro-batch", micro_batch),
        ("frozen weights", "read when needed" if memory.streams_weights else "stay in memory"),
        ("predicted peak", f"{format_size(memory.predicted_peak_bytes):>12}"),
        *((f"  {name}", f"{format_size(size):>12}") for name, size in memory.parts.items()),
    ]
    output.show(result, rows)
    memory.require()
    return 0


COMMAND = Command("plan", "show what would run within a memory budget", PlanOptions, run)
