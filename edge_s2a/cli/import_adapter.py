"""`edge-s2a import-adapter`."""

from edge_s2a.cli.command import Command
from edge_s2a.cli.host import require_host
from edge_s2a.cli.output import Output
from edge_s2a.options import ImportAdapterOptions


def run(options: ImportAdapterOptions, output: Output) -> int:
    require_host()
    from edge_s2a.host.export.module import import_adapter

    labels = list(options.labels) if options.labels else None
    import_adapter(options.artifact, options.torch, options.output, labels)
    output.show({"output": str(options.output)}, [("written", options.output)])
    return 0


COMMAND = Command(
    "import-adapter", "make an adapter file from what torch trained (workstation)", ImportAdapterOptions, run
)
