"""Shows what was learned in one pass and how good it is, at the head of the page."""

from collections.abc import Iterable

from edge_s2a.report.elements import escaped, tile
from edge_s2a.report.learned_record import LearnedRecord
from edge_s2a.report.sections.overview import memory_tiles, sentence
from edge_s2a.report.words import human_time, percent
from edge_s2a.run.times import format_time


def section(record: LearnedRecord) -> str:
    tiles = [*accuracy_tiles(record), *cost_tiles(record)]
    return f'{heading(record)}\n<div class="tiles">{"".join(tiles)}</div>'


def heading(record: LearnedRecord) -> str:
    lines = [
        sentence("learned in one pass as", record.path.name),
        sentence("started", human_time(record.summary.started)),
    ]
    return f"""<header>
<p class="above"><span class="state finished">learned</span></p>
<h1>{escaped(title_of(record))}</h1>
<p class="faint">{" · ".join(line for line in lines if line)}</p>
</header>"""


def title_of(record: LearnedRecord) -> str:
    return record.summary.model or record.path.name


def accuracy_tiles(record: LearnedRecord) -> Iterable[str]:
    summary = record.summary
    if summary.left_out_accuracy is not None:
        loss = "" if summary.left_out_loss is None else f", cross-entropy {summary.left_out_loss:.3f}"
        yield tile("Left-out accuracy", percent(summary.left_out_accuracy), f"of images it had not learned{loss}")
    if summary.val_accuracy is not None:
        loss = "" if summary.val_loss is None else f"cross-entropy {summary.val_loss:.3f}"
        yield tile("Validation accuracy", percent(summary.val_accuracy), loss)
    if summary.calibration_error is not None:
        yield tile("Calibration error", percent(summary.calibration_error), "expected, of left-out probabilities")


def cost_tiles(record: LearnedRecord) -> Iterable[str]:
    summary = record.summary
    if summary.images is not None:
        folded = f", {summary.folded_images} folded into sums" if summary.folded_images else ""
        yield tile("Images", f"{summary.images:,}", f"of {len(summary.classes)} classes{folded}")
    if summary.seconds is not None:
        known = f", {summary.known_images} known before" if summary.known_images else ""
        new = "" if summary.new_images is None else f"{summary.new_images} new images{known}"
        yield tile("Time", time_of(summary.seconds), new)
    yield from memory_tiles(record.memory)


def time_of(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else format_time(seconds)
