"""`edge-s2a export`."""

from edge_s2a.cli.command import Command
from edge_s2a.cli.host import require_host
from edge_s2a.cli.output import Output
from edge_s2a.options import ExportOptions


def run(options: ExportOptions, output: Output) -> int:
    require_host()
    from edge_s2a.exporting import export

    result = export(options)
    error = result["relative_error"]
    what = "features" if options.format == "onnx-features" else "logits"
    agreement = "not checked: only PEFT runs it" if error is None else f"within {error:.1e} of the runtime's {what}"
    output.show(result, [("format", result["format"]), ("written", result["output"]), ("outputs", agreement)])
    return 0


COMMAND = Command("export", "write the tuned model in a format that others read (workstation)", ExportOptions, run)
