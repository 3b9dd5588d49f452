"""Holds what was learned in one pass as its files tell it, from which the page and its figures are made."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from edge_s2a.report.confusion import Confusion
from edge_s2a.report.record import Memory
from edge_s2a.run.knowledge import confusion_of, read_learning, read_recent
from edge_s2a.run.schema import LearningSummary, RecentDrift


class LearnedRecord(NamedTuple):
    path: Path  # of the knowledge file
    summary: LearningSummary
    confusion: Confusion  # of images that were left out of the classifier; it names none of them
    recent: RecentDrift | None

    @property
    def classes(self) -> list[str]:
        return list(self.summary.classes)

    @property
    def memory(self) -> Memory:
        summary = self.summary
        return Memory(summary.budget_bytes, summary.predicted_peak_bytes, summary.peak_rss_bytes, summary.parts)


def read_learned(path: Path) -> LearnedRecord:
    """Raises UserError if `path` is no knowledge file."""
    summary = read_learning(path)
    return LearnedRecord(path, summary, Confusion(Counter(confusion_of(summary)), []), read_recent(path))
