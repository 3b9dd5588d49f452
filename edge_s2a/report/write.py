"""Writes the page about a run and its figures."""

from pathlib import Path
from typing import TypedDict

from edge_s2a.artifact.files import make_folder, write_bytes
from edge_s2a.report.charts import DARK, LIGHT
from edge_s2a.report.confusion import Confusion, confusion_of
from edge_s2a.report.drawing import inline_svg, png
from edge_s2a.report.page import page, pictures
from edge_s2a.report.record import Record, read_record
from edge_s2a.report.thumbnails import thumbnails
from edge_s2a.run.reader import read_predictions


class Written(TypedDict):
    """Paths of what was written."""

    page: str
    figures: list[str]


def write_report(run: Path, output: Path) -> Written:
    """Writes OUTPUT/index.html and OUTPUT/<figure>.png.

    Raises UserError if `run` is not the folder of a run, or `output` cannot be written.
    """
    record = read_record(run)
    confusion = confusion_of(read_predictions(run))
    make_folder(output)
    figures = pictures(record, confusion)
    for picture in figures:
        write_bytes(output / f"{picture.name}.png", png(picture))
    drawn = [(picture, inline_svg(picture, LIGHT) + inline_svg(picture, DARK)) for picture in figures]
    text = page(record, confusion, drawn, worst_thumbnails(record, confusion))
    write_bytes(output / "index.html", text.encode())
    return {
        "page": str(output / "index.html"),
        "figures": [str(output / f"{picture.name}.png") for picture in figures],
    }


def worst_thumbnails(record: Record, confusion: Confusion) -> dict[str, str]:
    """Returns image -> data URI, of those of the worst images that are still there."""
    val = record.facts.data.val
    if val is None or val.where is None:
        return {}
    return thumbnails(Path(val.where), record.classes, [line.image for _, line in confusion.worst])
