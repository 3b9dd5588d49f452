"""What the tools that measure and tabulate share: their two commands, and records kept as JSON lines."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).parent.parent

Command = Callable[[argparse.Namespace], None]


def run_command(
    description: str,
    results: str,
    run: Command,
    table: Command,
    add_run_options: Callable[[argparse.ArgumentParser], None],
) -> None:
    """The command line `run` and `table`, both with --results, a file of docs/studies by default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for function in (run, table):
        command = commands.add_parser(function.__name__)
        command.set_defaults(function=function)
        command.add_argument("--results", type=Path, default=PROJECT / "docs" / "studies" / results)
        if function is run:
            add_run_options(command)
    options = parser.parse_args()
    options.function(options)


def read_records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append_record(path: Path, record: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
