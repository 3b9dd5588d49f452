"""Labelled images in a folder or a .npz file: which there are, and of which classes."""

import os
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_s2a.device.data.decoding import SUFFIXES
from edge_s2a.errors import UserError

LARGEST_LABEL = 9999  # in a .npz for any number of classes
# Usual names of the folders of a split, in any case; of several the first.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "test", "testing"),
}
UNKNOWN_IMAGES = {".heic", ".heif", ".avif", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".svg", ".jxl"}


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
    unused: dict[str, int] = field(default_factory=dict)  # suffix -> files that lie there and are no known images
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
    """The images of `path`: a folder with one folder per class, or with {train,val} above these, or a .npz. Images may
    lie in folders below that of their class.

    split: "train" or "val", or what else such a folder is called (SPLITS). labels: the artifact's class names, which
    the folders must match ("val" may lack some); without any, the sorted names of the folders are the classes.
    num_classes: how many there must be; None for any number. Raises UserError for data that does not fit.
    """
    if path.suffix == ".npz":
        return _open_arrays(path, labels, num_classes)
    if not path.is_dir():
        raise UserError(f"data folder {path} does not exist; give a folder with one folder of images per class")
    return _open_folder(path, split, labels, num_classes)


def has_split(path: Path, split: str) -> bool:
    """Whether `path` is a folder with a folder of training or of validation images."""
    return split_folder(path, split) is not None


def split_folder(path: Path, split: str) -> Path | None:
    """The folder of the training ("train") or validation images ("val") in `path`; None if there is none. It has class
    folders: one that has images instead is a class of that name."""
    if not path.is_dir():
        return None
    found = {entry.name.casefold(): path / entry.name for entry in sorted(_entries(path), key=lambda entry: entry.name)}
    for name in SPLITS[split]:
        folder = found.get(name)
        if folder is not None and folder.is_dir() and any(entry.is_dir() for entry in _entries(folder)):
            return folder
    return None


def unused_files(dataset: Dataset) -> str:
    """A sentence about the files that are not used, with what to do; "" if there are none."""
    if not dataset.unused:
        return ""
    kinds = sorted(dataset.unused.items(), key=lambda kind: (-kind[1], kind[0]))
    listed = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in kinds[:8])
    remedy = (
        "; convert images, for example with ImageMagick: mogrify -format jpg *.heic"
        if UNKNOWN_IMAGES & dataset.unused.keys()
        else ""
    )
    return f"files not used in {printable(dataset.where)}: {listed}{', ...' * (len(kinds) > 8)}{remedy}"


def _open_folder(path: Path, split: str, labels: list[str] | None, num_classes: int | None) -> Dataset:
    folder = split_folder(path, split) or path
    # Where classes and a folder of other images lie side by side, that is no class.
    others = {split_folder(path, name) for name in SPLITS} if folder == path else set()
    unused: Counter[str] = Counter()
    folders = {name: found for name, found in _class_folders(folder, unused).items() if found not in others}
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
        files = sorted(_images_below(folders[name], unused))
        if not files:
            raise UserError(f"class folder {folders[name]} has no images; add some or remove the folder")
        samples += [Sample(Path(file), classes.index(name)) for file in files]
    return Dataset(folder, labels or found, samples, unused=dict(unused))


def _images_below(folder: Path, unused: Counter[str], above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yields the paths of the images in a folder and all folders below; symbolic links count, but for one that leads
    back to a folder above. Counts other files by their suffix."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for entry in _entries(folder):
        if entry.name[0] == ".":
            continue
        if entry.is_dir():
            yield from _images_below(folder / entry.name, unused, (*above, real))
        elif _is_image(entry):
            yield entry.path
        elif entry.is_file():
            unused[os.path.splitext(entry.name)[1].lower()] += 1


def _class_folders(folder: Path, unused: Counter[str]) -> dict[str, Path]:
    """Folder by class; symbolic links to folders count. Counts files beside them by their suffix."""
    folders: dict[str, Path] = {}
    for entry in _entries(folder):
        if entry.name[0] == ".":
            continue
        if not entry.is_dir():
            unused[os.path.splitext(entry.name)[1].lower()] += 1
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
