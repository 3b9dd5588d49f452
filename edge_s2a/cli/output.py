"""Prints results: one JSON object, a table, or nothing."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Output(NamedTuple):
    """How a command prints what it found."""

    json: bool
    quiet: bool

    def show(self, result: Mapping[str, Any], rows: Sequence[tuple[str, object]]) -> None:
        """Prints `result` as one JSON object with --json, otherwise `rows` as a table, unless it is to be quiet."""
        if self.json:
            print(json.dumps(result, ensure_ascii=False))
        elif not self.quiet:
            print_table(rows)


def print_table(rows: Sequence[tuple[str, object]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
