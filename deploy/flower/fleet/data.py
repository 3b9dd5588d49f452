"""A device's labelled images."""

from pathlib import Path

from edge_s2a.device.data.dataset import Dataset, open_dataset, split_folder
from edge_s2a.errors import UserError

LabelledImages = list[tuple[Path, int]]


def training_images(data: Path, classes: list[str]) -> LabelledImages:
    """Those of DATA/train, or of DATA where it has no such folder. A device need not have images of every class.
    Raises UserError."""
    return _images(split_folder(data, "train") or data, classes)


def validation_images(data: Path, classes: list[str]) -> LabelledImages:
    """Those of DATA/val. Raises UserError."""
    return _images(validation_folder(data), classes)


def named_images(data: Path) -> list[tuple[Path, str]]:
    """Those of DATA/train, or of DATA where it has no such folder, with the names of their class folders. Raises
    UserError."""
    dataset = open_dataset(data, "train", None, None)
    return [(path, dataset.classes[label]) for path, label in _labelled(dataset)]


def validation_folder(data: Path) -> Path:
    """DATA/val. Raises UserError if there is none."""
    folder = split_folder(data, "val")
    if folder is None:
        raise UserError(f"{data} has no folder val; put images for validation there, or leave this device untested")
    return folder


def _images(folder: Path, classes: list[str]) -> LabelledImages:
    # Read as validation images are, of which a class may have none.
    return _labelled(open_dataset(folder, "val", classes, len(classes)))


def _labelled(dataset: Dataset) -> LabelledImages:
    return list(zip(map(dataset.stored, range(len(dataset))), dataset.labels.tolist(), strict=True))
