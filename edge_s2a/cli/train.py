"""`edge-s2a train`."""

import sys
from pathlib import Path
from typing import Any, NoReturn

from edge_s2a.cli.command import Command
from edge_s2a.cli.output import Output
from edge_s2a.cli.peak import exit_code, peak_row
from edge_s2a.errors import MemoryPressure
from edge_s2a.options import TrainOptions
from edge_s2a.run.compared import describe, kept, percent
from edge_s2a.run.convert import from_json
from edge_s2a.run.recall import rows as recall_rows
from edge_s2a.run.recall import warning
from edge_s2a.run.schema import CHECKPOINT, TRIAL, ComparedFacts
from edge_s2a.sizes import format_size
from edge_s2a.system.processes import continue_as

REMEDY = "train with --balance or --class-weights balanced, and keep the best by --metric balanced-accuracy"


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

        run = Path(options.output)
        if any(has_checkpoint(folder / CHECKPOINT) for folder in (run, run / TRIAL)):
            raise KeyboardInterrupt("interrupted; a checkpoint was written, --resume continues") from interruption
        raise
    output.show(summary, rows(summary))
    told = warning(summary["val_accuracy"], summary["val_recall"], REMEDY)
    if told and not output.quiet:
        print(told, file=sys.stderr)
    return exit_code("train", most_bytes(summary), summary["budget_bytes"])


def most_bytes(summary: dict[str, Any]) -> int:
    """The largest peak of all processes of the run, as if all had had the budget of the last one."""
    learned_bytes = summary.get("compared", {}).get("learned_peak_rss_bytes") or 0
    # An earlier process may have had a larger budget: what counts is by how much it was exceeded.
    exceeded_bytes = summary["budget_bytes"] + summary["excess_bytes"] if summary["excess_bytes"] else 0
    return max(summary["peak_rss_bytes"], learned_bytes, exceeded_bytes)


def continue_in_fresh_process(*options: str) -> NoReturn:
    """Replaces this process with one that goes on with the run: only so does all memory go back."""
    # Of an option given twice the last counts.
    continue_as([sys.executable, *sys.orig_argv[1:], *options])


def rows(summary: dict[str, Any]) -> list[tuple[str, object]]:
    compared = from_json(ComparedFacts, summary.get("compared"))
    is_trained = compared is None or compared.share
    return [
        *(trained_rows(summary) if is_trained else []),
        *(compared_rows(compared) if compared else []),
        (
            "trained",
            f"{summary['trainable_parameters'] if is_trained else 0} of {summary['total_parameters']} parameters",
        ),
        ("predicted peak", format_size(summary["predicted_peak_bytes"])),
        peak_row(most_bytes(summary), summary["budget_bytes"]),
        ("memory budget", format_size(summary["budget_bytes"])),
        ("skipped images", summary["skipped_images"]),
        ("results", summary["output"]),
    ]


def trained_rows(summary: dict[str, Any]) -> list[tuple[str, object]]:
    loss, accuracy, best = summary["train_loss"], summary["val_accuracy"], summary["best_accuracy"]
    return [
        ("steps", f"{summary['steps']} in {summary['seconds']:.1f} s"),
        ("train loss", "not finite" if loss is None else f"{loss:.4f}"),
        ("val accuracy", "no validation data" if accuracy is None else percent(accuracy)),
        *recall_rows(summary["val_balanced_accuracy"], summary["val_recall"]),
        *([] if accuracy is None else [("best accuracy", "that of the start" if best is None else percent(best))]),
    ]


def compared_rows(compared: ComparedFacts) -> list[tuple[str, object]]:
    """Of a training that started from what was learned in one pass."""
    rows: list[tuple[str, object]] = [("held out", describe(compared)), ("kept", kept(compared))]
    if compared.val_accuracy is not None:
        learned = f"learned in one pass {percent(compared.learned_val_accuracy)}"
        rows.append(("val accuracy", f"{learned}, kept {percent(compared.val_accuracy)}"))
    return rows


COMMAND = Command("train", "fine-tune the adapter within a memory budget", TrainOptions, run)
