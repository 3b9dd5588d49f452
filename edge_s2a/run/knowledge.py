"""Reads what learning in one pass leaves: a knowledge file's record of itself, and the files beside it.

Like the rest of this package it needs Python alone, and passes over what is damaged. Of a knowledge file it reads the
header, and verifies no checksum: that would take reading all of it.
"""

import os
from pathlib import Path
from typing import Any

from edge_s2a.artifact.header import read_header
from edge_s2a.artifact.json_text import parse_json
from edge_s2a.artifact.learning_files import JOURNAL_HEADER, JOURNAL_MAGIC, JOURNAL_PREFIX, KNOWLEDGE_FORMAT, RECORD
from edge_s2a.errors import UserError
from edge_s2a.run.convert import from_json
from edge_s2a.run.schema import PARTIAL, RECENT, LearningSummary, RecentDrift


def partial_of(knowledge: Path) -> Path:
    return knowledge.with_name(knowledge.name + PARTIAL)


def recent_of(knowledge: Path) -> Path:
    return knowledge.with_name(knowledge.name + RECENT)


def read_learning(path: Path) -> LearningSummary:
    """Returns the record of a knowledge file, without what cannot be used. Raises UserError if the file cannot be read,
    or is none."""
    try:
        with open(path, "rb", buffering=0) as file:
            metadata = _metadata(read_header(file)[0])
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    except ValueError:
        metadata = {}
    if metadata.get("format") != KNOWLEDGE_FORMAT:
        raise UserError(
            f"{path} is not the folder of a run, nor a knowledge file of this version; give the folder that was "
            "--output of edge-s2a train, or the file of edge-s2a learn"
        )
    summary = from_json(LearningSummary, _object(metadata.get(RECORD)))
    assert summary is not None, "no field of the record is required"
    return summary


def images_read(path: Path) -> int | None:
    """Returns how many images a journal holds, K.partial for instance; None if it is none or is not there."""
    try:
        with open(path, "rb", buffering=0) as file:
            header, size = file.read(JOURNAL_HEADER.size), os.fstat(file.fileno()).st_size
    except OSError:
        return None
    if len(header) < JOURNAL_HEADER.size:
        return None
    magic, _, row_bytes = JOURNAL_HEADER.unpack(header)
    if magic != JOURNAL_MAGIC:
        return None
    return (size - JOURNAL_HEADER.size) // (JOURNAL_PREFIX.size + row_bytes)


def read_recent(knowledge: Path) -> RecentDrift | None:
    """Returns what K.recent.json says; None where there is none that can be used."""
    try:
        return from_json(RecentDrift, _object(recent_of(knowledge).read_bytes()))
    except OSError:
        return None


def confusion_of(summary: LearningSummary) -> dict[tuple[str, str], int]:
    """Returns (class, likeliest class) -> left-out images; {} where the record has none that fit its classes."""
    names, rows = list(summary.classes), summary.confusion
    if any(len(row) != len(names) for row in rows) or len(rows) not in (0, len(names)):
        return {}
    if any(count < 0 for row in rows for count in row):
        return {}
    return {
        (name, other): count
        for name, row in zip(names, rows, strict=False)
        for other, count in zip(names, row, strict=True)
        if count
    }


def _metadata(header: bytes) -> dict[str, Any]:
    found = parse_json(header)
    metadata = found.get("__metadata__") if isinstance(found, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _object(text: object) -> dict[str, Any]:
    """Returns the JSON object of a text, {} of anything else."""
    if not isinstance(text, str | bytes):
        return {}
    try:
        found = parse_json(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
