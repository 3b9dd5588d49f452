"""Assembles the page: one HTML document that needs nothing but itself."""

from collections.abc import Sequence
from pathlib import Path

from edge_s2a.report.charts import Picture
from edge_s2a.report.confusion import Confusion
from edge_s2a.report.elements import escaped, figure
from edge_s2a.report.learned_record import LearnedRecord
from edge_s2a.report.record import Record
from edge_s2a.report.sections import (
    classes,
    confusions,
    drift,
    events,
    learned,
    learned_settings,
    learning,
    memory,
    overview,
    settings,
)
from edge_s2a.report.words import now
from edge_s2a.version import __version__

STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
# Whatever a file has smuggled in: it may load and run nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

Drawn = tuple[Picture, str]  # with its <svg> elements


def pictures(record: Record, confusion: Confusion) -> list[Picture]:
    """Returns the figures that the record has something for, in the order of the page."""
    return [
        *learning.pictures(record),
        *memory.pictures(record),
        *confusions.pictures(confusion, record.classes),
        *events.pictures(record),
    ]


def page(record: Record, confusion: Confusion, drawn: Sequence[Drawn], thumbnails: dict[str, str]) -> str:
    """Returns the HTML document. thumbnails: image -> data URI, of those that could be read."""
    figures = figures_of(drawn)
    sections = [
        overview.section(record),
        learning.section(figures),
        memory.section(figures),
        confusions.section(confusion, figures, thumbnails),
        events.section(record, figures),
        settings.section(record.run_json),
    ]
    return document(overview.title_of(record), sections, record.folder)


def learned_pictures(record: LearnedRecord) -> list[Picture]:
    """Returns the figures of what was learned in one pass, in the order of the page."""
    return [*confusions.pictures(record.confusion, record.classes), *memory.plan_pictures(record.memory)]


def learned_page(record: LearnedRecord, drawn: Sequence[Drawn]) -> str:
    """Returns the HTML document about what was learned in one pass."""
    figures = figures_of(drawn)
    sections = [
        learned.section(record),
        classes.section(record, figures),
        memory.section(figures),
        drift.section(record.recent),
        learned_settings.section(record.summary),
    ]
    return document(learned.title_of(record), sections, record.path)


def figures_of(drawn: Sequence[Drawn]) -> dict[str, str]:
    return {picture.name: figure(picture, svg) for picture, svg in drawn}


def document(title: str, sections: Sequence[str], source: Path) -> str:
    """title: text; sections: HTML; source: the files that the page was made from."""
    title, content = escaped(title), "\n".join(sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} – edge-s2a</title>
<style>
{STYLE}</style>
</head>
<body>
<main>
{content}
</main>
<footer>Written by edge-s2a {escaped(__version__)} on {escaped(now())} from {escaped(source)}</footer>
</body>
</html>
"""
