"""Reads tables of labelled images: CSV files with a column of paths and one of labels, and perhaps one of splits."""

import csv
import itertools
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from edge_s2a.device.data.decoding import SUFFIXES
from edge_s2a.device.data.paths import Paths
from edge_s2a.errors import UserError

TABLES = {".csv", ".tsv"}
DELIMITERS = ",;\t"
# Usual names of the columns, in any case; of several the first.
COLUMNS = {
    "path": ("path", "image", "file", "filename", "file_name", "filepath", "image_path", "img", "name"),
    "label": ("label", "class", "category", "target", "class_name", "labels"),
    "split": ("split", "set", "subset", "partition"),
}


class Row(NamedTuple):
    """A labelled image of a table."""

    path: str  # below the folder of the table, or absolute
    label: str
    split: str  # in lower case; "" where the table has none


class Table(NamedTuple):
    """The images of a table."""

    paths: Paths
    places: array  # of each image in `paths`
    labels: array  # of each image, the number of its name
    names: list[str]  # of the classes, in the order in which they come


def is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLES and path.is_file()


def has_rows(path: Path, splits: tuple[str, ...]) -> bool:
    """Whether a table has images of one of these splits. Raises UserError for one that cannot be read."""
    return any(row.split in splits for row in rows_of(path))


def read_table(path: Path, splits: tuple[str, ...]) -> Table:
    """The images of one of these splits, or all where the table has no such column. Raises UserError for a table that
    cannot be read or has none."""
    table, numbers = Table(Paths(), array("Q"), array("I"), []), dict[str, int]()
    for row in rows_of(path):
        if row.split and row.split not in splits:
            continue
        table.places.append(table.paths.append(os.fsencode(row.path)))
        if row.label not in numbers:
            numbers[row.label] = len(numbers)
            table.names.append(row.label)
        table.labels.append(numbers[row.label])
    if not table.places:
        raise UserError(f"{path} has no images of the split {splits[0]}; add rows, or correct its column of splits")
    return table


def rows_of(path: Path) -> Iterator[Row]:
    """Yields the rows of a table, with or without a header. Raises UserError for one that cannot be read, with its
    line."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from _rows(file, path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}; write a table in UTF-8 with the columns path,label") from error


def _rows(file: TextIO, path: Path) -> Iterator[Row]:
    first_line = file.readline()
    delimiter = max(DELIMITERS, key=first_line.count)
    header = [word.strip().casefold() for word in next(csv.reader([first_line], delimiter=delimiter), [])]
    column = {kind: _place(header, names) for kind, names in COLUMNS.items()}
    is_headless = len(header) == 2 and os.path.splitext(header[0])[1] in SUFFIXES
    if is_headless:
        column = {"path": 0, "label": 1, "split": None}
    at, label_at, split_at = (column[kind] for kind in ("path", "label", "split"))
    if at is None or label_at is None:
        raise UserError(
            f"{path} begins with the columns {', '.join(header)[:80] or 'of nothing'}; wanted are path,label, and "
            "perhaps split: paths are relative to the table"
        )
    reader = csv.reader(itertools.chain([first_line] if is_headless else [], file), delimiter=delimiter)
    for words in reader:
        if not any(words):
            continue
        number = reader.line_num + (0 if is_headless else 1)
        if len(words) <= max(at, label_at, split_at or 0) or not words[at].strip() or not words[label_at].strip():
            raise UserError(f"line {number} of {path} has no path or no label; correct it, or remove it")
        split = "" if split_at is None else words[split_at].strip().casefold() or "-"
        yield Row(words[at].strip(), words[label_at].strip(), split)


def _place(header: list[str], names: tuple[str, ...]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)
