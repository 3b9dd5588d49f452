"""Holds a whole run as its files tell it, from which the page and its figures are made."""

from pathlib import Path
from typing import Any, NamedTuple

from edge_s2a.errors import UserError
from edge_s2a.run.events import merge_rests
from edge_s2a.run.reader import MetricsLines, is_run, read_facts, read_object, read_summary
from edge_s2a.run.schema import METRICS, RUN, EpochLine, Event, RunFacts, StepLine, Summary


class EpochEnd(NamedTuple):
    at: int  # optimizer steps done when the epoch ended
    line: EpochLine


class Memory(NamedTuple):
    """What a process was planned to take and took, in bytes; None where that is not known."""

    budget_bytes: int | None
    predicted_bytes: int | None
    peak_bytes: int | None
    parts: dict[str, int]  # of predicted_bytes


class Record(NamedTuple):
    folder: Path
    facts: RunFacts
    run_json: dict[str, Any]  # all that run.json says; {} of a run of an older version
    summary: Summary | None  # None of a run that is not finished
    steps: list[StepLine]
    epochs: list[EpochEnd]
    events: list[Event]  # rests in a row are one

    @property
    def is_finished(self) -> bool:
        return self.summary is not None

    @property
    def budget_bytes(self) -> int | None:
        return self.facts.plan.budget_bytes or (self.summary.budget_bytes if self.summary else None)

    @property
    def predicted_bytes(self) -> int | None:
        return self.facts.plan.predicted_peak_bytes or (self.summary.predicted_peak_bytes if self.summary else None)

    @property
    def peak_bytes(self) -> int | None:
        """The most that the kernel counted in any process of the run; of a run of an older version, the most after a
        step."""
        counted = [end.line.peak_rss_bytes for end in self.epochs]
        counted += [self.summary.peak_rss_bytes] if self.summary else []
        sizes = [size for size in counted if size is not None]
        return max(sizes or [step.rss_bytes for step in self.steps], default=None)

    @property
    def memory(self) -> Memory:
        return Memory(self.budget_bytes, self.predicted_bytes, self.peak_bytes, self.facts.plan.parts)

    @property
    def classes(self) -> list[str]:
        return self.facts.classes or (self.summary.classes if self.summary else [])


def read_record(folder: Path) -> Record:
    """Reads the files of a run. Raises UserError if `folder` is not that of a run, or a file is damaged."""
    if not is_run(folder):
        raise UserError(
            f"{folder} is not the folder of a run: it has neither {RUN} nor {METRICS}; give the folder that was "
            "--output of edge-s2a train"
        )
    steps: list[StepLine] = []
    epochs: list[EpochEnd] = []
    events: list[Event] = []
    for line in MetricsLines(folder).new():
        if isinstance(line, StepLine):
            steps.append(line)
        elif isinstance(line, EpochLine):
            epochs.append(EpochEnd(steps[-1].step if steps else 0, line))
        else:
            events.append(line)
    summary, run_json = read_summary(folder), read_object(folder / RUN)
    return Record(folder, read_facts(folder), run_json, summary, steps, epochs, merge_rests(events))
