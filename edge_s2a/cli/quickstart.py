"""`edge-s2a quickstart`."""

from pathlib import Path

from edge_s2a.cli.command import Command
from edge_s2a.cli.host import require_host
from edge_s2a.cli.output import Output
from edge_s2a.options import QuickstartOptions


def run(options: QuickstartOptions, output: Output) -> int:
    require_host()
    from edge_s2a.quickstart import run_quickstart

    return run_quickstart(Path(options.output), options.memory_budget, output.json, output.quiet)


COMMAND = Command("quickstart", "pack the embedded model and fine-tune it on handwriting", QuickstartOptions, run)
