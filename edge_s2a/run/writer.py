"""Writes what a run leaves in its folder: JSON lines as they happen, facts at the start, a summary at the end."""

import contextlib
import json
from pathlib import Path
from typing import Any

from edge_s2a.artifact.files import atomic_writer, write_bytes, writing
from edge_s2a.artifact.json_text import parse_json
from edge_s2a.errors import UserError
from edge_s2a.run.convert import number, to_json
from edge_s2a.run.knowledge import recent_of
from edge_s2a.run.schema import (
    PREDICTIONS,
    RUN,
    SUMMARY,
    EpochLine,
    MetricsLine,
    PredictionLine,
    RecentDrift,
    RunFacts,
    Summary,
)


class MetricsFile:
    """Appends records to RUN/metrics.jsonl, each as soon as it is written."""

    def __init__(self, path: Path, steps: int = 0, epochs: int = 0):
        """Starts the file over, or, given the steps and epochs that are done, continues it.

        Lines of later steps and epochs are dropped, because they will be written again. Raises UserError if the disk
        does not take it, as `write` does.
        """
        if steps:
            _keep(path, steps, epochs)
        with writing(path):
            self._file = open(path, "a" if steps else "w", buffering=1, encoding="utf-8", newline="\n")
        self._path = path

    def write(self, line: MetricsLine) -> None:
        with writing(self._path):
            self._file.write(json_line(line))

    def close(self) -> None:
        """Raises UserError where what could not be written before still cannot be."""
        with writing(self._path):
            self._file.close()


def _keep(path: Path, steps: int, epochs: int) -> None:
    """Drops the lines of later steps and epochs, line by line, for the file of a long run is large."""
    if not path.exists():
        return
    # The old file is closed before the new one takes its name.
    with atomic_writer(path) as new, open(path, encoding="utf-8", errors="replace") as old:
        for line in old:
            with contextlib.suppress(ValueError):  # its last line may be torn
                if _is_done(parse_json(line), steps, epochs):
                    new.write(line.encode())


def _is_done(values: Any, steps: int, epochs: int) -> bool:
    """Whether a line of any kind, be it of another version, belongs to the first so many steps and epochs."""
    if not isinstance(values, dict):
        return False
    is_epoch = values.get("kind") == EpochLine.kind
    position = number(values.get("epoch" if is_epoch else "step"))
    return position is not None and position <= (epochs if is_epoch else steps)


def json_line(record: MetricsLine | PredictionLine) -> str:
    """Returns the line of a record, with its end."""
    return json.dumps(to_json(record)) + "\n"


def write_facts(folder: Path, facts: RunFacts) -> None:
    """Writes RUN/run.json. Raises UserError if the disk does not take it."""
    write_bytes(folder / RUN, _document(to_json(facts)))


def write_summary(folder: Path, summary: Summary) -> None:
    """Writes RUN/summary.json, which tells that the run is finished. Raises UserError if the disk does not take it."""
    write_bytes(folder / SUMMARY, _document(to_json(summary)))


def remove_results(folder: Path) -> None:
    """Removes the results of an earlier run, so that nobody who watches takes the new run for one that is finished."""
    for name in (SUMMARY, PREDICTIONS):
        with writing(folder / name):
            (folder / name).unlink(missing_ok=True)


def write_recent(knowledge: Path, recent: RecentDrift) -> None:
    """Writes K.recent.json beside a knowledge file K, if that is possible: it is news, and no result."""
    with contextlib.suppress(UserError):
        write_bytes(recent_of(knowledge), _document(to_json(recent)))


def remove_recent(knowledge: Path) -> None:
    """Removes that file, if that is possible."""
    with contextlib.suppress(OSError):
        recent_of(knowledge).unlink(missing_ok=True)


def _document(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
