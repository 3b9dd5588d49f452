"""`edge-s2a report`."""

from pathlib import Path

from edge_s2a.cli.command import Command
from edge_s2a.cli.output import Output
from edge_s2a.errors import UserError
from edge_s2a.options import ReportOptions


def run(options: ReportOptions, output: Output) -> int:
    if options.tensorboard:
        export_events(Path(options.run_folder), Path(options.tensorboard), output)
    else:
        write_page(Path(options.run_folder), options, output)
    return 0


def write_page(run_folder: Path, options: ReportOptions, output: Output) -> None:
    require_matplotlib()
    from edge_s2a.report.write import write_report

    result = write_report(run_folder, Path(options.output or run_folder / "report"))
    output.show(result, [("page", result["page"]), *(("figure", path) for path in result["figures"])])


def export_events(run_folder: Path, folder: Path, output: Output) -> None:
    try:
        from edge_s2a.report.tensorboard import write_events
    except ImportError as error:
        raise UserError("this needs tensorboard; install it with: pip install 'edge-s2a[tensorboard]'") from error
    from edge_s2a.artifact.files import writing
    from edge_s2a.report.record import read_record

    record = read_record(run_folder)
    with writing(folder):
        write_events(record, folder)
    output.show({"events": str(folder)}, [("events", folder)])


def require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("a report needs matplotlib; install it with: pip install 'edge-s2a[report]'") from error


COMMAND = Command("report", "write a page about a run, with figures", ReportOptions, run)
