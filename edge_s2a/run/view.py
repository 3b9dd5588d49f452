"""Keeps what a run's files tell of it up to date while another process writes them."""

import contextlib
from array import array
from pathlib import Path
from typing import Any

from edge_s2a.run.convert import to_json
from edge_s2a.run.events import merge_rests
from edge_s2a.run.reader import MetricsLines, read_facts, read_summary
from edge_s2a.run.schema import METRICS, RUN, EpochLine, Event, MetricsLine, RunFacts, StepLine, Summary
from edge_s2a.run.times import format_time, seconds_since_1970

KEPT_EVENTS = 50
RECENT_STEPS = 50  # the current rate is the mean over so many
# A run that has written nothing for longer than both may have ended without a word.
QUIET_S, QUIET_STEPS = 30.0, 10


class View:
    """What is known of a run. Of its steps only the losses are kept, 4 bytes each."""

    def __init__(self, folder: Path, facts: RunFacts):
        self.folder, self.facts = folder, facts
        self.summary: Summary | None = None
        self.step: StepLine | None = None  # the last one
        self.epoch: EpochLine | None = None  # the last one
        self.losses = array("f")
        self.seconds = array("f")  # of the last steps
        self.events: list[Event] = []
        self.best_accuracy: float | None = None
        self.most_bytes = 0
        self.changed_s = 0.0  # when the run last wrote anything, in seconds since 1970
        self._lines = MetricsLines(folder)

    def update(self) -> None:
        """Reads what the run has written since the last call."""
        for line in self._lines.new():
            self._take(line)
        self.summary = read_summary(self.folder)
        for name in (RUN, METRICS):
            with contextlib.suppress(OSError):
                self.changed_s = max(self.changed_s, (self.folder / name).stat().st_mtime)

    def _take(self, line: MetricsLine) -> None:
        if isinstance(line, StepLine):
            self.step = line
            self.losses.append(line.loss)
            self.seconds = (self.seconds + array("f", [line.seconds]))[-RECENT_STEPS:]
            self.most_bytes = max(self.most_bytes, line.rss_bytes)
        elif isinstance(line, EpochLine):
            self.epoch = line
            self.most_bytes = max(self.most_bytes, line.peak_rss_bytes or 0)
            if line.val_accuracy is not None:
                self.best_accuracy = max(line.val_accuracy, self.best_accuracy or 0.0)
        else:
            self.events = merge_rests([*self.events, line])[-KEPT_EVENTS:]

    @property
    def steps(self) -> int:
        """Optimizer steps done so far."""
        finished = None if self.summary is None else self.summary.steps
        return finished or (0 if self.step is None else self.step.step)

    @property
    def total_steps(self) -> int | None:
        finished = None if self.summary is None else self.summary.steps
        return finished or self.facts.steps

    @property
    def is_finished(self) -> bool:
        return self.summary is not None

    @property
    def budget_bytes(self) -> int | None:
        return self.facts.plan.budget_bytes or (None if self.summary is None else self.summary.budget_bytes)

    @property
    def resident_bytes(self) -> int | None:
        """The peak of a finished run; what a run that goes on has now."""
        peak = None if self.summary is None else self.summary.peak_rss_bytes
        return peak or (None if self.step is None else self.step.rss_bytes)

    def state(self, now_s: float) -> str:
        """Says how the run is, in a few words. now_s: seconds since 1970."""
        if self.is_finished:
            return "finished"
        if self.facts.started is None and self.step is None:
            return "waiting for the run to start"
        quiet_s = now_s - self.changed_s
        if quiet_s > max(QUIET_S, QUIET_STEPS * mean(self.seconds)):
            return f"no news for {format_time(quiet_s)}"
        return "starting" if self.step is None else "running"

    def seconds_left(self) -> float | None:
        """Estimates the seconds left from the pace since this process of the run started, validation and rests
        included; from that of its steps before anything else is known."""
        done, total = self.steps, self.total_steps
        if self.is_finished or not done or not total:
            return None
        first = self.facts.resumed_at_step or 0
        started_s = seconds_since_1970(self.facts.started)
        if started_s is None or self.changed_s <= started_s or done <= first:
            return mean(self.seconds) * (total - done)
        return (self.changed_s - started_s) / (done - first) * (total - done)

    def plain(self, now_s: float) -> dict[str, Any]:
        """Returns what a frame shows as one JSON object."""
        return {
            "run": str(self.folder),
            "state": self.state(now_s),
            "steps": self.steps,
            "total_steps": self.total_steps,
            "seconds_left": self.seconds_left(),
            "step": None if self.step is None else to_json(self.step),
            "epoch": None if self.epoch is None else to_json(self.epoch),
            "best_accuracy": self.best_accuracy,
            "budget_bytes": self.budget_bytes,
            "peak_rss_bytes": self.most_bytes or None,
            "events": [to_json(event) for event in self.events],
        }


def open_view(folder: Path) -> View:
    view = View(folder, read_facts(folder))
    view.update()
    return view


def refreshed(view: View) -> View:
    """Returns the view with what is new; another view if another process has taken the folder over."""
    if read_facts(view.folder).started != view.facts.started:
        return open_view(view.folder)
    view.update()
    return view


def mean(values: array) -> float:
    """Returns 0 for no values."""
    return sum(values) / len(values) if values else 0.0
