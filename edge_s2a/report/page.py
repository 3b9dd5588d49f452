"""Assembles the page: one HTML document that needs nothing but itself."""

from collections.abc import Sequence
from pathlib import Path

from edge_s2a.report.charts import Picture
from edge_s2a.report.confusion import Confusion
from edge_s2a.report.elements import escaped, figure
from edge_s2a.report.record import Record
from edge_s2a.report.sections import confusions, events, learning, memory, overview, settings
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
        *confusions.pictures(record, confusion),
        *events.pictures(record),
    ]


def page(record: Record, confusion: Confusion, drawn: Sequence[Drawn], thumbnails: dict[str, str]) -> str:
    """Returns the HTML document. thumbnails: image -> data URI, of those that could be read."""
    figures = {picture.name: figure(picture, svg) for picture, svg in drawn}
    title = escaped(overview.title_of(record))
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
{overview.section(record)}
{learning.section(figures)}
{memory.section(figures)}
{confusions.section(confusion, figures, thumbnails)}
{events.section(record, figures)}
{settings.section(record.run_json)}
</main>
<footer>Written by edge-s2a {escaped(__version__)} on {escaped(now())} from {escaped(record.folder)}</footer>
</body>
</html>
"""
