"""A run as far as its files tell, kept up to date while another process writes them."""

import contextlib
from array import array
from datetime import datetime
from pathlib import Path

from edge_s2a.run.reader import (
    METRICS,
    RUN,
    SUMMARY,
    GrowingLines,
    format_time,
    is_epoch,
    is_event,
    is_step,
    merge_rests,
    number,
    read_object,
    section,
)

KEPT_EVENTS = 50
RECENT_STEPS = 50  # what the rate of now is the mean over
# Without news for longer than both a run may have ended without a word.
QUIET_S, QUIET_STEPS = 30.0, 10


class View:
    """What is known of a run. Of its steps only the losses are kept, 4 bytes each."""

    def __init__(self, folder: Path, facts: dict):
        self.folder, self.facts = folder, facts
        self.summary: dict = {}
        self.step: dict = {}
        self.epoch: dict = {}
        self.losses = array("f")
        self.seconds = array("f")  # of the last steps
        self.events: list[dict] = []
        self.best_accuracy: float | None = None
        self.most_bytes = 0
        self.changed_s = 0.0  # when the run last wrote of itself, in seconds since 1970
        self._lines = GrowingLines(folder / METRICS)

    def update(self) -> None:
        for line in self._lines.new():
            self._take(line)
        self.summary = read_object(self.folder / SUMMARY)
        for name in (RUN, METRICS):
            with contextlib.suppress(OSError):
                self.changed_s = max(self.changed_s, (self.folder / name).stat().st_mtime)

    def _take(self, line: dict) -> None:
        if is_step(line):
            self.step = line
            self.losses.append(line["loss"])
            self.seconds = (self.seconds + array("f", [line["seconds"]]))[-RECENT_STEPS:]
            self.most_bytes = max(self.most_bytes, line["rss_bytes"])
        elif is_epoch(line):
            self.epoch = line
            self.most_bytes = max(self.most_bytes, number(line.get("peak_rss_bytes")) or 0)
            if (accuracy := number(line.get("val_accuracy"))) is not None:
                self.best_accuracy = max(accuracy, self.best_accuracy or 0.0)
        elif is_event(line):
            self.events = merge_rests([*self.events, line])[-KEPT_EVENTS:]

    @property
    def steps(self) -> int:
        """Done so far."""
        return number(self.summary.get("steps")) or number(self.step.get("step")) or 0

    @property
    def total_steps(self) -> int | None:
        return number(self.summary.get("steps")) or number(self.facts.get("steps"))

    @property
    def is_finished(self) -> bool:
        return bool(self.summary)

    def state(self, now_s: float) -> str:
        """In a few words. now_s: seconds since 1970."""
        if self.is_finished:
            return "finished"
        if not self.facts and not self.step:
            return "waiting for the run to start"
        quiet_s = now_s - self.changed_s
        if quiet_s > max(QUIET_S, QUIET_STEPS * mean(self.seconds)):
            return f"no news for {format_time(quiet_s)}"
        return "running" if self.step else "starting"

    def seconds_left(self) -> float | None:
        """At the pace since this process of the run started, validation and rests included; before anything else is
        known, at that of its steps."""
        done, total = self.steps, self.total_steps
        if self.is_finished or not done or not total:
            return None
        first = number(self.facts.get("resumed_at_step")) or 0
        started_s = seconds_since_1970(self.facts.get("started"))
        if started_s is None or self.changed_s <= started_s or done <= first:
            return mean(self.seconds) * (total - done)
        return (self.changed_s - started_s) / (done - first) * (total - done)

    def plain(self, now_s: float) -> dict:
        """What a frame shows, as one JSON object."""
        return {
            "run": str(self.folder),
            "state": self.state(now_s),
            "steps": self.steps,
            "total_steps": self.total_steps,
            "seconds_left": self.seconds_left(),
            "step": self.step or None,
            "epoch": self.epoch or None,
            "best_accuracy": self.best_accuracy,
            "budget_bytes": self.budget_bytes,
            "peak_rss_bytes": self.most_bytes or None,
            "events": self.events,
        }

    @property
    def budget_bytes(self) -> int | None:
        return number(section(self.facts, "plan").get("budget_bytes")) or number(self.summary.get("budget_bytes"))


def open_view(folder: Path) -> View:
    view = View(folder, read_object(folder / RUN))
    view.update()
    return view


def refreshed(view: View) -> View:
    """The same run further on, or another one where another process has taken the folder up."""
    if read_object(view.folder / RUN).get("started") != view.facts.get("started"):
        return open_view(view.folder)
    view.update()
    return view


def seconds_since_1970(text: object) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if isinstance(text, str) else None
    except (ValueError, OverflowError):
        return None


def mean(values: array) -> float:
    """0 of none."""
    return sum(values) / len(values) if values else 0.0
