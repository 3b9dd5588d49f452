"""What the server writes down of the devices' answers."""

import json
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"


def start_notes(output: Path) -> None:
    """Makes the folder OUTPUT, with no notes in it yet."""
    output.mkdir(parents=True, exist_ok=True)
    (output / METRICS).unlink(missing_ok=True)


def note(output: Path, kind: str, **said: Any) -> None:
    """Appends a line to OUTPUT/metrics.jsonl."""
    with open(output / METRICS, "a") as file:
        file.write(json.dumps({"kind": kind, **said}) + "\n")
