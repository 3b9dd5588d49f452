"""Prints results: one JSON object, a table, or nothing."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TextIO

from edge_s2a.run.text import visible


class Output(NamedTuple):
    """How a command prints what it found."""

    json: bool
    quiet: bool

    def show(self, result: Mapping[str, Any], rows: Sequence[tuple[str, object]]) -> None:
        """Prints `result` as one JSON object with --json, otherwise `rows` as a table, unless it is to be quiet."""
        if self.json:
            print(as_json(result))
        elif not self.quiet:
            print_table(rows)


def as_json(result: Mapping[str, Any]) -> str:
    """One JSON object; with what is not ASCII escaped where standard output takes nothing else."""
    is_unicode = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").startswith("utf")
    return json.dumps(result, ensure_ascii=not is_unicode)


def say(text: str, file: TextIO | None = None) -> None:
    """Prints a line that may quote names of classes and files: nothing in it is obeyed by a terminal."""
    print("\t".join(map(visible, text.split("\t"))), file=file or sys.stdout)


def escape_what_cannot_be_printed() -> None:
    """From now on printing a name never fails, whatever a terminal can show."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def print_table(rows: Sequence[tuple[str, object]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(f"{name:<{width}}  {value}")
