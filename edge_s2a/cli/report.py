"""`edge-s2a report`."""

from pathlib import Path

from edge_s2a.cli.command import Command
from edge_s2a.cli.output import Output
from edge_s2a.errors import UserError
from edge_s2a.options import ReportOptions


def run(options: ReportOptions, output: Output) -> int:
    source = Path(options.source)
    if options.tensorboard:
        export_events(source, Path(options.tensorboard), output)
    else:
        write_page(source, Path(options.output or default_folder(source)), output)
    return 0


def default_folder(source: Path) -> Path:
    return source.with_name(source.name + ".report") if source.is_file() else source / "report"


def write_page(source: Path, folder: Path, output: Output) -> None:
    require_matplotlib()
    from edge_s2a.report.write import write_report

    result = write_report(source, folder)
    output.show(result, [("page", result["page"]), *(("figure", path) for path in result["figures"])])


def export_events(run_folder: Path, folder: Path, output: Output) -> None:
    if run_folder.is_file():
        raise UserError(
            f"--tensorboard shows the steps of a run, and {run_folder} is a file; give the folder that was --output of "
            "edge-s2a train, or leave out --tensorboard"
        )
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


COMMAND = Command("report", "write a page about a run or a knowledge file, with figures", ReportOptions, run)
