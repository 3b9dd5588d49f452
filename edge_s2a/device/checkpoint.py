"""Saves the state of a training between two optimizer steps as a safetensors file, and keeps the one before it.

Power may fail at any moment: a file takes its name only once it is complete and on the disk, the previous one is kept,
and a digest tells whether the disk returns what was written.
"""

import dataclasses
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edge_s2a.artifact import tensors
from edge_s2a.artifact.files import atomic_writer, read_bytes, writing
from edge_s2a.artifact.json_text import parse_json
from edge_s2a.errors import UserError
from edge_s2a.system.files import replace, sync_folder

FILE, PREVIOUS, NEXT = "state.safetensors", "previous.safetensors", "next.safetensors"
LARGEST_COUNT = 1 << 53
LENGTHS = ("epochs", "steps")  # that may grow when a run is resumed
Arrays = dict[str, np.ndarray]


@dataclass
class Position:
    """How far a training has come. The order of images and their augmentation follow from seed and epoch."""

    epoch: int = 0  # epochs done
    step: int = 0  # optimizer steps done
    images: int = 0  # images of the current epoch consumed, readable or not
    loss_sum: float = 0.0  # of the current epoch, over readable images
    correct: int = 0
    count: int = 0
    train_loss: float | None = None  # of the last whole epoch
    val_accuracy: float | None = None
    val_balanced_accuracy: float | None = None
    epochs_since_best: int = 0
    best_accuracy: float = -1.0
    updates: int = 0  # steps that the optimizer's state has seen
    failures: int = 0  # steps in a row whose loss or gradient was not finite
    rate_share: float = 1.0  # of the learning rate that was asked for; halved when that is too high
    lowest_loss: float = float("inf")  # of an epoch, or of the first step
    training_s: float = 0.0  # in optimizer steps
    elapsed_s: float = 0.0  # in all
    excess_bytes: int = 0  # the most by which a process of the run exceeded its memory budget


def save_checkpoint(folder: Path, position: Position, arrays: dict[str, Arrays], settings: dict) -> None:
    """Writes a checkpoint into `folder`. arrays: tensors by group ("adapter", "best", "optimizer"). settings: those
    that decide the result, as JSON has them. Raises UserError if it cannot be written; the earlier ones are intact
    then."""
    flat = {f"{group}/{name}": array for group, named in arrays.items() for name, array in named.items()}
    metadata = {"position": json.dumps(asdict(position)), "settings": json.dumps(settings)}
    with atomic_writer(folder / NEXT) as file:
        tensors.write_with_digest(file, flat, metadata)
    with writing(folder / FILE):
        if (folder / FILE).exists():
            replace(folder / FILE, folder / PREVIOUS)
        replace(folder / NEXT, folder / FILE)
        sync_folder(folder)


def load_checkpoint(folder: Path, arrays: dict[str, Arrays], settings: dict) -> tuple[Position, str]:
    """Copies the saved tensors into `arrays`. Returns the position, and a sentence about the newest checkpoint if that
    is damaged and the one before it was read, otherwise "". Raises UserError if there is no intact checkpoint, or if
    the run had other settings."""
    errors = []
    for path in (folder / FILE, folder / PREVIOUS):
        if path.exists():
            try:
                loaded, position, saved = read_checkpoint(path)
                break
            except UserError as error:
                errors.append(str(error))
    else:
        reason = "; ".join(errors) or f"{folder / FILE} does not exist"
        raise UserError(f"nothing to resume: {reason}; omit --resume")
    different = sorted(
        key for key in settings if saved.get(key) != settings[key] and not has_grown(key, saved, settings)
    )
    if different:
        raise UserError(
            f"the run in {folder.parent} was started with "
            + ", ".join(f"{key} {saved.get(key)} instead of {settings[key]}" for key in different)
            + "; resume with the same settings, or start again without --resume"
        )
    try:
        for group, named in arrays.items():
            for name, array in named.items():
                array[...] = loaded[f"{group}/{name}"]
    except (KeyError, ValueError) as error:
        raise UserError(f"checkpoint {path} does not fit this run ({error}); start again without --resume") from error
    return position, "; ".join(errors)


def has_grown(key: str, saved: dict, settings: dict) -> bool:
    """Whether a training is only to become longer."""
    return key in LENGTHS and isinstance(saved.get(key), int | float) and saved[key] < settings[key]


def has_checkpoint(folder: Path) -> bool:
    return any((folder / name).exists() for name in (FILE, PREVIOUS))


def read_checkpoint(path: Path) -> tuple[Arrays, Position, dict]:
    """Returns (tensors, position, settings). Raises UserError if the file is not the one that was written."""
    loaded, metadata = tensors.decode(read_bytes(path, "checkpoint"), f"checkpoint {path}")
    if not tensors.has_its_digest(loaded, metadata):
        raise UserError(f"checkpoint {path} is damaged: its checksum is wrong")
    try:
        return loaded, _position(parse_json(metadata["position"])), dict(parse_json(metadata["settings"]))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"checkpoint {path} was written by another version ({error})") from error


def _position(fields: dict) -> Position:
    """The position with these fields. Raises ValueError or TypeError unless each is a number of its kind."""
    position = Position(**fields)
    for field in dataclasses.fields(Position):
        value, is_count = getattr(position, field.name), isinstance(field.default, int)
        if value is None and field.default is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int if is_count else (int, float)):
            raise ValueError(f"{field.name} is {value!r}")
        if math.isnan(value) or (is_count and not 0 <= value < LARGEST_COUNT):
            raise ValueError(f"{field.name} is {value}")
    return position


def remove_checkpoints(folder: Path) -> None:
    """Removes all checkpoints, so that a new run in a used folder is never mistaken for the old one."""
    for name in (FILE, PREVIOUS, NEXT):
        with writing(folder / name):
            (folder / name).unlink(missing_ok=True)
