"""Labelled images in a folder or a .npz file: which there are, and of which classes."""

import os
import unicodedata
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_s2a.device.data.decoding import SUFFIXES
from edge_s2a.errors import UserError

LARGEST_LABEL = 9999  # in a .npz for any number of classes


class Sample(NamedTuple):
    """A labelled image."""

    source: Path | int  # file, or index into the arrays of a .npz
    label: int


@dataclass
class Dataset:
    """Labelled images."""

    where: Path
    classes: list[str]
    samples: list[Sample]
    arrays: np.ndarray | None = None  # uint8 (images, height, width, 3) of a .npz, mapped
    skipped: dict[str, str] = field(default_factory=dict)  # those that turned out unusable, with the reason
    digests: dict[int, tuple[int, int, bytes]] = field(default_factory=dict)  # size and time of a file, and its SHA-256

    def stored(self, index: int) -> Path | np.ndarray:
        """The file of image `index`, or its pixels, uint8 (height, width, 3)."""
        source = self.samples[index].source
        if isinstance(source, Path):
            return source
        assert self.arrays is not None, "only images of a .npz are numbered"
        return self.arrays[source]

    def skipped_names(self) -> dict[str, str]:
        """`skipped`, with names that can be written anywhere."""
        return {printable(name): reason for name, reason in self.skipped.items()}


def open_dataset(path: Path, split: str, labels: list[str] | None, num_classes: int | None) -> Dataset:
    """The images of `path`: a folder with one folder per class, or with {train,val} above these, or a .npz.

    split: "train" or "val". labels: the artifact's class names, which the folders must match ("val" may lack some);
    without any, the sorted names of the folders are the classes. num_classes: how many there must be; None for any
    number. Raises UserError for data that does not fit.
    """
    if path.suffix == ".npz":
        return _open_arrays(path, labels, num_classes)
    if not path.is_dir():
        raise UserError(f"data folder {path} does not exist; give a folder with one folder of images per class")
    folder = path / split if (path / split).is_dir() else path
    return _open_folder(folder, split, labels, num_classes)


def has_split(path: Path, split: str) -> bool:
    """Whether `path` is a folder that is divided into training and validation images."""
    return path.is_dir() and (path / split).is_dir()


def _open_folder(folder: Path, split: str, labels: list[str] | None, num_classes: int | None) -> Dataset:
    folders = _class_folders(folder)
    found = sorted(folders)
    if not found:
        raise UserError(f"{folder} has no class folders; put the images of each class into a folder with its name")
    classes = [normalized_name(label) for label in labels or found]
    unknown = sorted(set(found) - set(classes))
    missing = sorted(set(classes) - set(found)) if split == "train" else []
    if unknown or missing:
        raise UserError(
            f"class folders of {folder} do not match the artifact's labels: "
            f"unknown {unknown}, missing {missing}; rename the folders, or pack with other --labels"
        )
    if num_classes is not None and len(classes) != num_classes:
        raise UserError(
            f"{folder} has {len(classes)} classes ({', '.join(classes[:8])}), the artifact was packed for "
            f"{num_classes}; pack it with --num-classes {len(classes)}, or correct the data"
        )
    samples = []
    for name in found:
        files = sorted(entry.path for entry in _entries(folders[name]) if _is_image(entry))
        if not files:
            raise UserError(f"class folder {folders[name]} has no images; add some or remove the folder")
        samples += [Sample(Path(file), classes.index(name)) for file in files]
    return Dataset(folder, labels or found, samples)


def _class_folders(folder: Path) -> dict[str, Path]:
    """Folder by class; symbolic links to folders count."""
    folders: dict[str, Path] = {}
    for entry in _entries(folder):
        if entry.name[0] == "." or not entry.is_dir():
            continue
        name = normalized_name(entry.name)
        if name != printable(name):
            raise UserError(f"the name of {printable(entry.path)} is not UTF-8; rename this class folder")
        if name in folders:
            raise UserError(f"{folders[name]} and {entry.path} have the same name, written in two ways; merge them")
        folders[name] = folder / entry.name
    return folders


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(
            f"cannot read folder {printable(folder)}: {error.strerror}; correct it, or remove it"
        ) from error


def normalized_name(name: str) -> str:
    """The name in one spelling: file systems differ in how they write an accent."""
    return unicodedata.normalize("NFC", name)


def printable(path: Path | str) -> str:
    """The path as text that can be written anywhere: a file's name is bytes, and need not be UTF-8."""
    return os.fsencode(path).decode(errors="replace")


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and entry.name[0] != "." and os.path.splitext(entry.name)[1].lower() in SUFFIXES


def _open_arrays(path: Path, labels: list[str] | None, num_classes: int | None) -> Dataset:
    try:
        images = _map_member(path, "images")
        with np.load(path, allow_pickle=False) as archive:
            targets = archive["labels"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"cannot read {path}: {error}; write it with numpy.savez(file, images=..., labels=...)"
        ) from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or targets.shape != images.shape[:1]:
        raise UserError(
            f"{path} holds images {images.dtype} {images.shape} and labels {targets.shape}; "
            "expected uint8 (images, height, width, 3) and integers (images,)"
        )
    highest = LARGEST_LABEL if num_classes is None else num_classes - 1
    if len(targets) == 0 or targets.dtype.kind not in "iu" or not 0 <= targets.min() <= targets.max() <= highest:
        raise UserError(f"labels of {path} must be integers from 0 to {highest}, at least one")
    classes = labels or [str(label) for label in range(int(targets.max()) + 1 if num_classes is None else num_classes)]
    samples = [Sample(index, int(label)) for index, label in enumerate(targets)]
    return Dataset(path, classes, samples, images)


def _map_member(path: Path, name: str) -> np.ndarray:
    """Maps an uncompressed member of a .npz, so that it does not count as heap."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{name}.npy")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError("the arrays are compressed")
        with archive.open(entry) as member:
            version = np.lib.format.read_magic(member)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran_order, dtype = read_header(member)
            header_bytes = member.tell()
    if fortran_order or dtype.hasobject:
        raise ValueError(f"array {name} has an unsupported layout")
    with open(path, "rb") as file:
        file.seek(entry.header_offset + 26)
        name_bytes, extra_bytes = np.frombuffer(file.read(4), "<u2").tolist()
    offset = entry.header_offset + 30 + name_bytes + extra_bytes + header_bytes
    return np.memmap(path, dtype, "r", offset, shape)
