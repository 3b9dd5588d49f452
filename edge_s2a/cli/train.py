"""`edge-s2a train`."""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from edge_s2a.cli.command import Command
from edge_s2a.cli.output import Output
from edge_s2a.errors import MemoryPressure
from edge_s2a.options import TrainOptions
from edge_s2a.sizes import format_size


def run(options: TrainOptions, output: Output) -> int:
    try:
        from edge_s2a.device.learned_start import is_due, learn_first
        from edge_s2a.device.training_run import train

        if is_due(options):
            learn_first(options)
            continue_in_fresh_process("--resume" if options.resume else "--resume-or-start")
        summary = train(options)
    except MemoryPressure as pressure:
        print(f"edge-s2a train: {pressure}", file=sys.stderr, flush=True)
        continue_in_fresh_process("--resume", "--memory-budget", str(pressure.budget_bytes))
    except KeyboardInterrupt as interruption:
        from edge_s2a.device.checkpoint import has_checkpoint

        if has_checkpoint(Path(options.output) / "checkpoint"):
            raise KeyboardInterrupt("interrupted; a checkpoint was written, --resume continues") from interruption
        raise
    output.show(summary, rows(summary))
    return 0


def continue_in_fresh_process(*options: str) -> NoReturn:
    """Replaces this process with one that goes on with the run: only so does all memory go back."""
    # Of an option given twice the last counts.
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], *options])


def rows(summary: dict[str, Any]) -> list[tuple[str, object]]:
    loss, accuracy, best = summary["train_loss"], summary["val_accuracy"], summary["best_accuracy"]
    return [
        ("steps", f"{summary['steps']} in {summary['seconds']:.1f} s"),
        ("train loss", "not finite" if loss is None else f"{loss:.4f}"),
        ("val accuracy", percent(accuracy, "no validation data")),
        ("best accuracy", percent(best, "that of the start")),
        *compared_rows(summary.get("compared")),
        ("trained", f"{summary['trainable_parameters']} of {summary['total_parameters']} parameters"),
        ("predicted peak", format_size(summary["predicted_peak_bytes"])),
        ("measured peak", format_size(summary["peak_rss_bytes"])),
        ("memory budget", format_size(summary["budget_bytes"])),
        ("skipped images", summary["skipped_images"]),
        ("results", summary["output"]),
    ]


def compared_rows(compared: dict[str, Any] | None) -> list[tuple[str, object]]:
    """Of a training that started from what was learned in one pass."""
    if compared is None:
        return []
    learned, trained, both = (percent(compared[f"{name}accuracy"]) for name in ("learned_", "trained_", ""))
    learned_val, val = compared["learned_val_accuracy"], compared["val_accuracy"]
    rows: list[tuple[str, object]] = [
        (f"{compared['images']} held out", f"learned in one pass {learned}, trained {trained}, kept {both}"),
        ("kept", kept(compared["share"])),
    ]
    if val is not None:
        rows.append(("val accuracy", f"learned in one pass {percent(learned_val)}, kept {percent(val)}"))
    return rows


def kept(share: float) -> str:
    """What RUN/best.safetensors holds."""
    if share == 0:
        return "what was learned in one pass; training made it no better"
    if share == 1:
        return "the trained adapter"
    return f"both: {100 * share:.0f} % of the answer is the trained adapter's"


def percent(accuracy: float | None, otherwise: str = "unknown") -> str:
    return otherwise if accuracy is None else f"{100 * accuracy:.1f} %"


COMMAND = Command("train", "fine-tune the adapter within a memory budget", TrainOptions, run)
