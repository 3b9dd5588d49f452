"""From the folder of a run to a page and its pictures."""

from pathlib import Path

from edge_s2a.artifact.files import make_folder, write_bytes
from edge_s2a.report.confusion import Confusion, confusion_of
from edge_s2a.report.drawing import inline_svg, png
from edge_s2a.report.figures import DARK, LIGHT, pictures
from edge_s2a.report.page import page
from edge_s2a.report.record import Record, read_predictions, read_record
from edge_s2a.report.thumbnails import thumbnails
from edge_s2a.run.reader import section


def write_report(run: Path, output: Path) -> dict:
    """Writes OUTPUT/index.html and OUTPUT/<figure>.png; {"page": its path, "figures": theirs}. Raises UserError where
    `run` is not the folder of a run, or `output` cannot be written."""
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
    """image -> data URI, of those of the worst images that are still there."""
    where = section(section(record.facts, "data"), "val").get("where")
    if not isinstance(where, str):
        return {}
    return thumbnails(Path(where), record.classes, [line["image"] for line in confusion.worst])
