"""Labelled images in a folder or a .npz file: which there are, and of which classes."""

import dataclasses
import os
import unicodedata
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge_s2a.device.data.arrays import StoredArrays, open_arrays
from edge_s2a.device.data.decoding import SUFFIXES
from edge_s2a.device.data.paths import Paths, entries, files_below, printable
from edge_s2a.device.data.present import present
from edge_s2a.device.data.table import has_rows, is_table, read_table
from edge_s2a.errors import UserError

LARGEST_LABEL = 9999  # in a .npz for any number of classes
# Usual names of the folders of a split, in any case; of several the first.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "test", "testing"),
}
UNPACK = {".zip": "unzip", ".tar": "tar -xf", ".tgz": "tar -xf", ".tar.gz": "tar -xf", ".7z": "7z x", ".rar": "unrar x"}
UNKNOWN_IMAGES = {".heic", ".heif", ".avif", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".svg", ".jxl"}
DIGEST = np.dtype([("bytes", np.uint64), ("time_ns", np.int64), ("sha256", np.uint8, 32)])


@dataclass
class Dataset:
    """Labelled images. What is kept of each are some bytes, because there may be millions."""

    where: Path
    classes: list[str]
    labels: np.ndarray  # unsigned (images,): numbers of the classes
    places: np.ndarray  # unsigned (images,): of an image in `paths` or in `arrays`
    paths: Paths | None = None  # below `where`
    arrays: StoredArrays | None = None  # of a .npz
    skipped: dict[str, str] = field(default_factory=dict)  # those that turned out unusable, with the reason
    unused: dict[str, int] = field(default_factory=dict)  # suffix -> files that lie there and are no known images
    digests: np.ndarray | None = None  # DIGEST (images,): of the files, as far as they are known

    def __len__(self) -> int:
        return len(self.labels)

    def stored(self, index: int) -> Path | np.ndarray:
        """The file of image `index`, or its pixels, uint8 (height, width, 3). Raises OSError if these cannot be
        read."""
        place = int(self.places[index])
        if self.paths is not None:
            return self.where / self.paths[place]
        assert self.arrays is not None, "images are in files or in arrays"
        return self.arrays[place]

    def name(self, index: int) -> str:
        """The path of image `index` below the data's folder, which may be moved; or its number in a .npz."""
        place = int(self.places[index])
        return str(place) if self.paths is None else printable(self.paths[place])

    def skip(self, index: int, reason: str) -> None:
        """From now on image `index` is not used."""
        self.skipped[self._full_name(index)] = reason

    def is_skipped(self, index: int) -> bool:
        return bool(self.skipped) and self._full_name(index) in self.skipped

    def _full_name(self, index: int) -> str:
        place = int(self.places[index])
        return str(place) if self.paths is None else str(self.where / self.paths[place])

    def skipped_names(self) -> dict[str, str]:
        """`skipped`, with names that can be written anywhere."""
        return {printable(name): reason for name, reason in self.skipped.items()}

    def part(self, indices: np.ndarray) -> "Dataset":
        """The images at these indices, int (images,)."""
        return dataclasses.replace(self, labels=self.labels[indices], places=self.places[indices], digests=None)

    def renumbered(self, classes: list[str]) -> "Dataset":
        """The same images, their classes numbered as in `classes`, which has the names of all that have images."""
        used = present(self.labels)
        numbers = np.zeros(int(used.max(initial=0)) + 1, label_type(classes))
        numbers[used] = [classes.index(self.classes[label]) for label in used]
        return dataclasses.replace(self, classes=classes, labels=numbers[self.labels])

    def remember_digests(self) -> None:
        """From now on the digests of files are remembered until the files change."""
        self.digests = np.zeros(len(self), DIGEST)


def dataset_of(where: Path, classes: list[str], files: Sequence[Path], labels: Sequence[int] | None = None) -> Dataset:
    """A dataset of these files, which are below `where` or are found from anywhere. labels: of each, by default 0."""
    paths = Paths()
    places = np.array([paths.append(os.fsencode(file)) for file in files], np.uint32)
    return Dataset(where, classes, np.array(labels or np.zeros(len(files)), label_type(classes)), places, paths)


def label_type(classes: Sequence[str]) -> np.dtype:
    """Of the numbers of the classes."""
    return np.dtype(np.uint16 if len(classes) <= 1 << 16 else np.uint32)


def open_dataset(path: Path, split: str, labels: list[str] | None, num_classes: int | None) -> Dataset:
    """The images of `path`: a folder with one folder per class, or with {train,val} above these, a table (CSV), or a
    .npz. Images may lie in folders below that of their class.

    split: "train" or "val", or what else such a folder, or a table, calls it (SPLITS). labels: the artifact's class
    names, which the folders must match ("val" may lack some); without any, the sorted names of the folders are the
    classes.
    num_classes: how many there must be; None for any number. Raises UserError for data that does not fit.
    """
    if path.suffix == ".npz":
        return _of_arrays(path, labels, num_classes)
    if is_table(path):
        return _of_table(path, split, labels, num_classes)
    if not path.is_dir():
        raise UserError(_what_else(path))
    return _open_folder(path, split, labels, num_classes)


def _what_else(path: Path) -> str:
    """What is wrong with data that are no folder, and what to do."""
    wanted = "give a folder with one folder of images per class, a CSV table with the columns path,label, or a .npz"
    if not path.exists():
        return f"data {path} do not exist; {wanted}"
    if how := next((how for suffix, how in UNPACK.items() if path.name.lower().endswith(suffix)), None):
        return f"{path} is an archive; unpack it, for example with {how}, and give the folder"
    return f"{path} is a file of another kind; {wanted}"


def has_split(path: Path, split: str) -> bool:
    """Whether `path` is a folder with a folder of training or of validation images, or a table that has such."""
    return has_rows(path, SPLITS[split]) if is_table(path) else split_folder(path, split) is not None


def split_folder(path: Path, split: str) -> Path | None:
    """The folder of the training ("train") or validation images ("val") in `path`; None if there is none. It has class
    folders: one that has images instead is a class of that name."""
    if not path.is_dir():
        return None
    names = [entry.name for entry in entries(path) if entry.name.casefold() in SPLITS[split]]
    found = {name.casefold(): path / name for name in sorted(names)}
    for name in SPLITS[split]:
        folder = found.get(name)
        if folder is not None and folder.is_dir() and any(entry.is_dir() for entry in entries(folder)):
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
    _require_match(found, classes, split, num_classes, "class folders", folder)
    paths, places, targets = Paths(), array("I"), array("I")
    for name in found:
        prefix = os.fsencode(folders[name].name) + b"/"
        label, before = classes.index(name), len(places)
        for file in files_below(folders[name], SUFFIXES, unused):
            places.append(paths.append(prefix + file))
            targets.append(label)
        if len(places) == before:
            raise UserError(f"class folder {folders[name]} has no images; add some or remove the folder")
    numbers = np.frombuffer(targets, np.uint32).astype(label_type(classes))
    return Dataset(folder, labels or found, numbers, np.frombuffer(places, np.uint32), paths, unused=dict(unused))


def _require_match(
    found: list[str], classes: list[str], split: str, num_classes: int | None, what: str, where: Path
) -> None:
    """Raises UserError unless the classes that were found are those that are wanted. what: names them, in `where`."""
    unknown = sorted(set(found) - set(classes))
    missing = sorted(set(classes) - set(found)) if split == "train" else []
    if unknown and split != "train":
        raise UserError(
            f"{what} of {where} are {', '.join(found[:8])}; wanted are the classes that were learned, "
            f"{', '.join(classes[:8])}, or a folder {' or '.join(SPLITS[split][:3])} with these; correct the data, or "
            "give others"
        )
    if unknown or missing:
        raise UserError(
            f"{what} of {where} do not match the artifact's labels: "
            f"unknown {unknown}, missing {missing}; rename the folders, or pack with other --labels"
        )
    if num_classes is not None and len(classes) != num_classes:
        raise UserError(
            f"{where} has {len(classes)} classes ({', '.join(classes[:8])}), the artifact was packed for "
            f"{num_classes}; pack it with --num-classes {len(classes)}, or correct the data"
        )


def _class_folders(folder: Path, unused: Counter[str]) -> dict[str, Path]:
    """Folder by class; symbolic links to folders count. Counts files beside them by their suffix."""
    folders: dict[str, Path] = {}
    for entry in entries(folder):
        if entry.name[0] == ".":
            continue
        if not entry.is_dir():
            unused[os.path.splitext(entry.name)[1].lower()] += 1
            continue
        try:
            # Not as Python decodes names, which depends on the locale.
            name = normalized_name(os.fsencode(entry.name).decode())
        except UnicodeDecodeError:
            raise UserError(f"the name of {printable(entry.path)} is not UTF-8; rename this class folder") from None
        if name in folders:
            raise UserError(f"{folders[name]} and {entry.path} have the same name, written in two ways; merge them")
        folders[name] = folder / entry.name
    return folders


def normalized_name(name: str) -> str:
    """The name in one spelling: file systems differ in how they write an accent."""
    return unicodedata.normalize("NFC", name)


def _of_table(path: Path, split: str, labels: list[str] | None, num_classes: int | None) -> Dataset:
    table = read_table(path, SPLITS[split])
    names = [normalized_name(name) for name in table.names]
    found = sorted(set(names))
    classes = [normalized_name(label) for label in labels or found]
    if labels and not set(found) & set(classes) and set(found) <= {str(number) for number in range(len(classes))}:
        numbers = [int(name) for name in names]  # of the classes, as in a .npz
    else:
        _require_match(found, classes, split, num_classes, "labels", path)
        numbers = [classes.index(name) for name in names]
    wanted = np.array(numbers, label_type(classes))[np.frombuffer(table.labels, np.uint32)]
    return Dataset(path.parent, labels or found, wanted, np.frombuffer(table.places, np.uint64), table.paths)


def _of_arrays(path: Path, labels: list[str] | None, num_classes: int | None) -> Dataset:
    images, targets = open_arrays(path)
    highest = LARGEST_LABEL if num_classes is None else num_classes - 1
    if len(targets) == 0 or targets.dtype.kind not in "iu" or not 0 <= targets.min() <= targets.max() <= highest:
        raise UserError(f"labels of {path} must be integers from 0 to {highest}, at least one")
    numerals = [str(label) for label in range(int(targets.max()) + 1 if num_classes is None else num_classes)]
    places = np.arange(len(targets), dtype=np.uint32)
    dataset = Dataset(path, labels or numerals, targets.astype(label_type(labels or numerals)), places, arrays=images)
    if labels is None or not set(numerals) <= set(labels):
        return dataset
    # Classes that are called by their numbers need not be in their order: "10" is sorted before "2".
    return dataclasses.replace(dataset, classes=numerals).renumbered(labels)
