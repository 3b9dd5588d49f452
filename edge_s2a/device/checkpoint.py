"""The state of a run between two optimizer steps, as one safetensors file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edge_s2a.artifact import tensors
from edge_s2a.artifact.files import atomic_writer, read_bytes
from edge_s2a.errors import UserError

FILE = "state.safetensors"


@dataclass
class Position:
    """How far a run has come. The order of images and their augmentation follow from seed and epoch."""

    epoch: int = 0  # epochs done
    step: int = 0  # optimizer steps done
    images: int = 0  # images of the current epoch consumed, readable or not
    loss_sum: float = 0.0  # of the current epoch, over readable images
    correct: int = 0
    count: int = 0
    train_loss: float | None = None  # of the last whole epoch
    val_accuracy: float | None = None
    best_accuracy: float = -1.0
    training_s: float = 0.0  # in optimizer steps
    elapsed_s: float = 0.0  # in all


def save_checkpoint(folder: Path, position: Position, arrays: dict[str, dict[str, np.ndarray]], settings: dict) -> None:
    """arrays: group ("adapter", "best", "optimizer") -> tensors."""
    flat = {f"{group}/{name}": array for group, named in arrays.items() for name, array in named.items()}
    metadata = {"position": json.dumps(asdict(position)), "settings": json.dumps(settings)}
    with atomic_writer(folder / FILE) as file:
        tensors.write(file, flat, metadata)


def load_checkpoint(folder: Path, arrays: dict[str, dict[str, np.ndarray]], settings: dict) -> Position:
    """Copies the saved tensors into `arrays` and returns the position. Raises UserError if there is no
    checkpoint, if it is damaged, or if the run had other settings."""
    path = folder / FILE
    if not path.exists():
        raise UserError(f"nothing to resume: {path} does not exist; leave --resume away")
    loaded, metadata = tensors.decode(read_bytes(path, "checkpoint"), f"checkpoint {path}")
    try:
        saved = json.loads(metadata["settings"])
        position = Position(**json.loads(metadata["position"]))
        different = sorted(key for key in settings if saved.get(key) != settings[key])
        if different:
            raise UserError(
                f"the run in {folder.parent} was started with "
                + ", ".join(f"{key} {saved.get(key)} instead of {settings[key]}" for key in different)
                + "; resume with the same settings, or start anew without --resume"
            )
        for group, named in arrays.items():
            for name, array in named.items():
                array[...] = loaded[f"{group}/{name}"]
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"checkpoint {path} does not fit this run ({error}); start anew") from error
    return position
