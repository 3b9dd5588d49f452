"""Shows what a device learns in one pass, from its knowledge file and the files beside it."""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

from edge_s2a.run.convert import to_json
from edge_s2a.run.knowledge import images_read, partial_of, read_learning, read_recent
from edge_s2a.run.schema import LearningSummary, RecentDrift
from edge_s2a.run.text import WIDEST, Line, Piece, cut, heading, labelled, memory, percent, visible
from edge_s2a.run.times import format_time
from edge_s2a.run.view import QUIET_S

SHOWN_CLASSES = 20


class LearningView(NamedTuple):
    """What the files say at one moment."""

    path: Path  # of the knowledge file
    summary: LearningSummary | None  # None before there is a knowledge file
    read_images: int | None  # on their way into it; None where nothing is being learned
    changed_s: float  # when the last of them was read, in seconds since 1970
    recent: RecentDrift | None

    @property
    def is_finished(self) -> bool:
        return self.read_images is None

    def state(self, now_s: float) -> str:
        """Says how learning is, in a few words. now_s: seconds since 1970."""
        if self.is_finished:
            return "learned"
        quiet_s = now_s - self.changed_s
        return f"no news for {format_time(quiet_s)}" if quiet_s > QUIET_S else "learning"

    def plain(self, now_s: float) -> dict[str, Any]:
        """Returns what a frame shows as one JSON object."""
        return {
            "knowledge": str(self.path),
            "state": self.state(now_s),
            "read_images": self.read_images,
            "learned": None if self.summary is None else to_json(self.summary),
            "recent": None if self.recent is None else to_json(self.recent),
        }


def is_of_learning(path: Path) -> bool:
    """Whether a path is that of a file, or of a knowledge file that is being made."""
    return path.is_file() or partial_of(path).is_file()


def open_learning(path: Path) -> LearningView:
    """Raises UserError if there is no knowledge file `path` and none is being made, or if it is no knowledge file."""
    read, changed_s = None, 0.0
    with contextlib.suppress(OSError):
        changed_s = partial_of(path).stat().st_mtime
        read = images_read(partial_of(path)) or 0
    if read is None or path.exists():
        return LearningView(path, read_learning(path), read, changed_s, read_recent(path))
    return LearningView(path, None, read, changed_s, None)


# -- a frame -------------------------------------------------------------------------------------------


def learning_frame(view: LearningView, width: int, height: int, now_s: float) -> list[Line]:
    """Returns at most `height` lines of at most `width` columns. now_s: seconds since 1970."""
    width = min(width, WIDEST)
    state = view.state(now_s)
    colour = {"learned": "green", "learning": "cyan"}.get(state, "yellow")
    title = (view.summary and view.summary.model) or view.path.name
    lines = [*heading(title, state, colour, str(view.path), width), []]
    if view.read_images is not None:
        lines.append(labelled("read", Piece(f"{view.read_images} images", "cyan")))
    if view.summary is not None:
        lines += measures(view.summary, width)
    if view.recent is not None:
        lines.append(drift(view.recent))
    return [cut(line, width) for line in lines[:height]]


def measures(summary: LearningSummary, width: int) -> list[Line]:
    return [
        images(summary),
        classes(summary),
        accuracy(summary),
        memory(summary.peak_rss_bytes, summary.budget_bytes, summary.predicted_peak_bytes, width),
    ]


def images(summary: LearningSummary) -> Line:
    kept, folded = summary.kept_images, summary.folded_images
    text = "not recorded" if summary.images is None else f"{summary.images} of {len(summary.classes)} classes"
    text += "" if kept is None else f"  features of {kept} kept"
    text += f", sums of {folded}" if folded else ""
    return labelled("images", Piece(text))


def classes(summary: LearningSummary) -> Line:
    shown = [f"{visible(name)} {count}" for name, count in list(summary.classes.items())[:SHOWN_CLASSES]]
    more = ["..."] if len(summary.classes) > SHOWN_CLASSES else []
    return labelled("classes", Piece(", ".join(shown + more)))


def accuracy(summary: LearningSummary) -> Line:
    values = (
        ("left out", summary.left_out_accuracy),
        ("val", summary.val_accuracy),
        ("calibration error", summary.calibration_error),
    )
    texts = [f"{name} {percent(value)}" for name, value in values if value is not None]
    return labelled("accuracy", Piece("  ".join(texts) or "no image could be left out"))


def drift(recent: RecentDrift) -> Line:
    said = "unlike what was learned" if recent.drifted else "as learned"
    text = f"  {recent.statistic:.2g}, usual up to {recent.threshold:.2g}  {recent.images} images"
    return labelled("drift", Piece(said, "yellow" if recent.drifted else "green"), Piece(text, "faint"))
