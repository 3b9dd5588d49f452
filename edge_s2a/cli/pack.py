"""`edge-s2a pack`."""

import sys
from pathlib import Path

from edge_s2a.cli.command import Command
from edge_s2a.cli.host import require_host
from edge_s2a.cli.inspect import show_artifact
from edge_s2a.cli.output import Output
from edge_s2a.options import PackOptions


def run(options: PackOptions, output: Output) -> int:
    require_host()
    from edge_s2a.host.pack import pack

    if not options.weights and not options.pretrained and not output.quiet:
        print("warning: random weights; give --weights FILE or --pretrained", file=sys.stderr)
    pack(options)
    show_artifact(Path(options.output), output)
    return 0


COMMAND = Command("pack", "pack a timm model into a .s2a training artifact (workstation)", PackOptions, run)
