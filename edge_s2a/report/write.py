"""Writes the page about a run, or what was learned in one pass, and its figures."""

from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from edge_s2a.artifact.files import make_folder, write_bytes
from edge_s2a.report.charts import DARK, LIGHT, Picture
from edge_s2a.report.confusion import Confusion, confusion_of
from edge_s2a.report.drawing import inline_svg, png
from edge_s2a.report.learned_record import read_learned
from edge_s2a.report.page import Drawn, learned_page, learned_pictures, page, pictures
from edge_s2a.report.record import Record, read_record
from edge_s2a.report.thumbnails import thumbnails
from edge_s2a.run.reader import read_predictions


class Written(TypedDict):
    """Paths of what was written."""

    page: str
    figures: list[str]


def write_report(source: Path, output: Path) -> Written:
    """Writes OUTPUT/index.html and OUTPUT/<figure>.png.

    Raises UserError if `source` is neither the folder of a run nor a knowledge file, or `output` cannot be written.
    """
    return _of_learning(source, output) if source.is_file() else _of_run(source, output)


def _of_run(folder: Path, output: Path) -> Written:
    record = read_record(folder)
    confusion = confusion_of(read_predictions(folder))
    thumbnails = worst_thumbnails(record, confusion)
    return _write(output, pictures(record, confusion), lambda drawn: page(record, confusion, drawn, thumbnails))


def _of_learning(path: Path, output: Path) -> Written:
    record = read_learned(path)
    return _write(output, learned_pictures(record), lambda drawn: learned_page(record, drawn))


def _write(output: Path, figures: list[Picture], text_of: Callable[[list[Drawn]], str]) -> Written:
    """Writes the figures, and the page that `text_of` makes with them."""
    make_folder(output)
    for picture in figures:
        write_bytes(output / f"{picture.name}.png", png(picture))
    drawn = [(picture, inline_svg(picture, LIGHT) + inline_svg(picture, DARK)) for picture in figures]
    write_bytes(output / "index.html", text_of(drawn).encode())
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
