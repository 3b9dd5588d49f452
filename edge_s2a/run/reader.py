"""Reads what a run leaves in its folder, while it goes on or long afterwards.

Nothing here needs more than Python itself: a terminal that watches a run shares the device's memory with it. The files
may be torn, damaged or of another version: what cannot be used is passed over.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_s2a.artifact.files import read_bytes
from edge_s2a.artifact.json_text import parse_json
from edge_s2a.errors import UserError
from edge_s2a.run.convert import from_json
from edge_s2a.run.schema import (
    METRICS,
    PREDICTIONS,
    RUN,
    SUMMARY,
    MetricsLine,
    PredictionLine,
    RunFacts,
    Summary,
    metrics_line,
)


def is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (RUN, METRICS, SUMMARY))


def read_facts(folder: Path) -> RunFacts:
    """Returns what RUN/run.json says; everything is missing where there is no such file, as of a run of version 0.1.0.

    Raises UserError if the file holds no JSON object.
    """
    facts = from_json(RunFacts, read_object(folder / RUN))
    assert facts is not None, "no field of run.json is required"
    return facts


def read_summary(folder: Path) -> Summary | None:
    """Returns what RUN/summary.json says, None of a run that is not finished. Raises UserError as `read_facts` does."""
    values = read_object(folder / SUMMARY)
    return from_json(Summary, values) if values else None


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in `path`, {} where there is no such file. Raises UserError for anything else."""
    if not path.exists():
        return {}
    try:
        values = parse_json(read_bytes(path, "file"))
    except ValueError as error:
        raise UserError(f"{path} is not what edge-s2a train writes: {error}; remove it") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not what edge-s2a train writes: it holds no JSON object; remove it")
    return values


class GrowingLines:
    """Reads a file of JSON objects, one per line, to which another process may be appending."""

    def __init__(self, path: Path):
        self.path = path
        self._offset = 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Yields the objects appended since the last call; none where there is no file.

        A line without its end is left for the next call; one that is no JSON object, as a power failure leaves it, is
        passed over. Raises UserError if the file cannot be read.
        """
        try:
            file = open(self.path, "rb")
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}; check the path") from error
        with file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                with contextlib.suppress(ValueError):
                    values = parse_json(line)
                    if isinstance(values, dict):
                        yield values


class MetricsLines:
    """Reads RUN/metrics.jsonl, to which the run may be appending."""

    def __init__(self, folder: Path):
        self._lines = GrowingLines(folder / METRICS)

    def new(self) -> Iterator[MetricsLine]:
        """Yields the records appended since the last call."""
        for values in self._lines.new():
            if (line := metrics_line(values)) is not None:
                yield line


def read_predictions(folder: Path) -> Iterator[PredictionLine]:
    """Yields the records of RUN/predictions.jsonl, one at a time, for there may be many."""
    for values in GrowingLines(folder / PREDICTIONS).new():
        if (line := from_json(PredictionLine, values)) is not None:
            yield line
