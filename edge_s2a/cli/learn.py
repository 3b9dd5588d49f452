"""`edge-s2a learn`."""

from pathlib import Path
from typing import Any

from edge_s2a.cli.command import Command
from edge_s2a.cli.output import Output
from edge_s2a.cli.peak import exit_code, peak_row
from edge_s2a.options import LearnOptions
from edge_s2a.sizes import format_size


def run(options: LearnOptions, output: Output) -> int:
    try:
        from edge_s2a.device.learning_run import learn

        summary = learn(options)
    except KeyboardInterrupt as interruption:
        if options.data is not None:
            target = Path(options.output or options.source)
            raise KeyboardInterrupt(
                f"interrupted; what was read is kept beside {target}, the same command goes on from there"
            ) from interruption
        raise
    output.show(summary, rows(summary))
    return exit_code("learn", summary["peak_rss_bytes"], summary["budget_bytes"])


def rows(summary: dict[str, Any]) -> list[tuple[str, object]]:
    counts = summary["classes"]
    validation = summary["val_accuracy"]
    known, folded = summary["known_images"], summary["folded_images"]
    return [
        ("images", f"{summary['images']} of {len(counts)} classes; {summary['new_images']} new, {known} known before"),
        ("classes", ", ".join(f"{name} {count}" for name, count in list(counts.items())[:8]) + (
            ", ..." if len(counts) > 8 else ""
        )),
        ("left-out accuracy", share(summary["left_out_accuracy"], "needs two images of a class")),
        ("calibration error", share(summary["calibration_error"], "needs two images of a class")),
        ("val accuracy", share(validation, "no validation data")),
        ("solved", f"{summary['form']} form, {summary['used_features']} of {summary['features']} features, "
                   f"lambda {summary['ridge']:.2g}"),
        ("kept", f"features of {summary['kept_images']} images" + (f", sums of {folded}" if folded else "")),
        ("time", f"{summary['seconds']:.1f} s"),
        ("predicted peak", format_size(summary["predicted_peak_bytes"])),
        peak_row(summary["peak_rss_bytes"], summary["budget_bytes"]),
        ("memory budget", format_size(summary["budget_bytes"])),
        ("skipped images", summary["skipped_images"]),
        ("knowledge", summary["output"]),
    ]  # fmt: skip


def share(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{100 * value:.1f} %"


COMMAND = Command(
    "learn", "learn classes in one pass, in seconds; add, forget, rename and merge them", LearnOptions, run
)
