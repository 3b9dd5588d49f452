"""A run as its files tell it, whole: what the page and its figures are made from."""

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from edge_s2a.errors import UserError
from edge_s2a.run.reader import (
    METRICS,
    PREDICTIONS,
    RUN,
    SUMMARY,
    GrowingLines,
    is_epoch,
    is_event,
    is_run,
    is_step,
    merge_rests,
    number,
    read_object,
    section,
)


class Record(NamedTuple):
    folder: Path
    facts: dict  # run.json; {} of a run of an older version
    summary: dict  # summary.json; {} of a run that is not finished
    steps: list[dict]
    epochs: list[dict]  # with "at": the steps done when it ended
    events: list[dict]

    @property
    def is_finished(self) -> bool:
        return bool(self.summary)

    @property
    def plan(self) -> dict:
        return section(self.facts, "plan")

    @property
    def settings(self) -> dict:
        return section(self.facts, "settings")

    @property
    def artifact(self) -> dict:
        return section(self.facts, "artifact")

    @property
    def budget_bytes(self) -> float | None:
        return self._planned("budget_bytes")

    @property
    def predicted_bytes(self) -> float | None:
        return self._planned("predicted_peak_bytes")

    def _planned(self, name: str) -> float | None:
        return number(self.plan.get(name)) or number(self.summary.get(name))

    @property
    def peak_bytes(self) -> float | None:
        """The most that the kernel counted, of a run that was resumed in any of its processes; before it was asked, the
        most after a step."""
        counted = [number(line.get("peak_rss_bytes")) for line in (self.summary, *self.epochs)]
        counted = [size for size in counted if size is not None]
        return max(counted or [line["rss_bytes"] for line in self.steps], default=None)

    @property
    def classes(self) -> list[str]:
        names = self.facts.get("classes") or self.summary.get("classes")
        return [str(name) for name in names] if isinstance(names, list) else []

    @property
    def training_s(self) -> list[float]:
        """For each step the seconds that it and those before it took."""
        return list(accumulate(line["seconds"] for line in self.steps))


def read_record(folder: Path) -> Record:
    """Raises UserError where `folder` is not that of a run."""
    if not is_run(folder):
        raise UserError(
            f"{folder} is not the folder of a run: it has neither {RUN} nor {METRICS}; give the one that was --output "
            "of edge-s2a train"
        )
    steps, epochs, events = [], [], []
    for line in GrowingLines(folder / METRICS).new():
        if is_step(line):
            steps.append(line)
        elif is_epoch(line):
            epochs.append({**line, "at": steps[-1]["step"] if steps else 0})
        elif is_event(line):
            events.append(line)
    facts, summary = read_object(folder / RUN), read_object(folder / SUMMARY)
    return Record(folder, facts, summary, steps, epochs, merge_rests(events))


def read_predictions(folder: Path) -> Iterator[dict]:
    """Lines of predictions.jsonl, one at a time, for there may be many."""
    for line in GrowingLines(folder / PREDICTIONS).new():
        if all(isinstance(line.get(name), str) for name in ("image", "label", "predicted")):
            yield line
