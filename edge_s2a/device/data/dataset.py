"""Labelled images from a folder or a .npz file, and their way to the model's input."""

import hashlib
import os
import unicodedata
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# "flip": mirrored half of the time. "crop": also a random part of the image.
AUGMENTATIONS = ("none", "flip", "crop")
MIRRORED = 0.5
BLOCK_BYTES = 1 << 16
# Random crop: shares of the image's area, and aspect ratios.
CROP_SCALE, CROP_RATIO = (0.35, 1.0), (3 / 4, 4 / 3)
BYTES_PER_PIXEL = 4  # how Pillow holds RGB
# Whole images that are held beside the decoded one, measured: by WebP's decoder two canvases and the pixels copied from
# them, by TIFF's the strip that may be all of it, and where 16 bits become 8.
COPIES_OF_FORMAT = {"WEBP": 3, "TIFF": 1}
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")
NO_LIMIT = 1 << 62

# Whatever else Pillow could read is not tried: each format is code that a hostile file reaches.
PLUGINS = (
    BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, PpmImagePlugin, TiffImagePlugin, WebPImagePlugin
)  # fmt: skip
# What Pillow warns of is harmless, or the image is skipped and listed.
warnings.filterwarnings("ignore", module="PIL")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


class UnusableImage(Exception):
    """An image that cannot be read, or that would take too much memory to decode."""


class Sample(NamedTuple):
    source: Path | int  # file, or index into the arrays of a .npz
    label: int


@dataclass
class Dataset:
    """Labelled images. `skipped` collects those that turned out unusable, with the reason; `digests` what
    `image_digest` found, with size and time of the file."""

    where: Path
    classes: list[str]
    samples: list[Sample]
    arrays: np.ndarray | None = None  # uint8 (images, height, width, 3) of a .npz, mapped
    skipped: dict[str, str] = field(default_factory=dict)
    digests: dict[int, tuple[int, int, bytes]] = field(default_factory=dict)

    def skipped_names(self) -> dict[str, str]:
        """`skipped` by names that can be written anywhere."""
        return {printable(name): reason for name, reason in self.skipped.items()}


def open_dataset(path: Path, split: str, labels: list[str] | None, num_classes: int) -> Dataset:
    """The images of `path`: a folder with one folder a class, or with {train,val} above these, or a .npz.

    split: "train" or "val". labels: the artifact's class names, which the folders must match ("val" may
    lack some); without any, the sorted names of the folders are the classes. Raises UserError.
    """
    if path.suffix == ".npz":
        return _open_arrays(path, labels, num_classes)
    if not path.is_dir():
        raise UserError(f"data folder {path} does not exist; give a folder with one folder of images a class")
    folder = path / split if (path / split).is_dir() else path
    return _open_folder(folder, split, labels, num_classes)


def has_split(path: Path, split: str) -> bool:
    return path.is_dir() and (path / split).is_dir()


def _open_folder(folder: Path, split: str, labels: list[str] | None, num_classes: int) -> Dataset:
    folders = _class_folders(folder)
    found = sorted(folders)
    if not found:
        raise UserError(f"{folder} has no class folders; put the images of each class into a folder of its name")
    classes = [normalized_name(label) for label in labels or found]
    unknown = sorted(set(found) - set(classes))
    missing = sorted(set(classes) - set(found)) if split == "train" else []
    if unknown or missing:
        raise UserError(
            f"class folders of {folder} do not match the artifact's labels: "
            f"unknown {unknown}, missing {missing}; rename the folders, or pack with other --labels"
        )
    if len(classes) != num_classes:
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
    """class -> its folder, or the folder that a symbolic link of its name leads to."""
    folders: dict[str, Path] = {}
    for entry in _entries(folder):
        if entry.name[0] == "." or not entry.is_dir():
            continue
        name = normalized_name(entry.name)
        if name != printable(name):
            raise UserError(f"the name of {printable(entry.path)} is not UTF-8; rename this class folder")
        if name in folders:
            raise UserError(f"{folders[name]} and {entry.path} have one name, written in two ways; merge them")
        folders[name] = folder / entry.name
    return folders


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(
            f"cannot read folder {printable(folder)}: {error.strerror}; correct it, or remove it"
        ) from error


def normalized_name(name: str) -> str:
    """One spelling of what looks the same: file systems differ in how they write an accent."""
    return unicodedata.normalize("NFC", name)


def printable(path: Path | str) -> str:
    """As text that can be written anywhere: a file's name is bytes, and need not be UTF-8."""
    return os.fsencode(path).decode(errors="replace")


def _is_image(entry: os.DirEntry) -> bool:
    return entry.is_file() and entry.name[0] != "." and os.path.splitext(entry.name)[1].lower() in SUFFIXES


def _open_arrays(path: Path, labels: list[str] | None, num_classes: int) -> Dataset:
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
    if len(targets) == 0 or targets.dtype.kind not in "iu" or not 0 <= targets.min() <= targets.max() < num_classes:
        raise UserError(f"labels of {path} must be integers from 0 to {num_classes - 1}, at least one")
    classes = labels or [str(label) for label in range(num_classes)]
    samples = [Sample(index, int(label)) for index, label in enumerate(targets)]
    return Dataset(path, classes, samples, images)


def _map_member(path: Path, name: str) -> np.ndarray:
    """An uncompressed member of a .npz as a mapped array, so that it does not count as heap."""
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


def image_digest(dataset: Dataset, index: int) -> bytes:
    """SHA-256 of the file of image `index`, or of its pixels; of a file that has not changed since the last call it is
    remembered. Raises UnusableImage."""
    source = dataset.samples[index].source
    if dataset.arrays is not None:
        return hashlib.sha256(dataset.arrays[source]).digest()
    try:
        status = os.stat(source)
        stamp = status.st_size, status.st_mtime_ns
        if index not in dataset.digests or dataset.digests[index][:2] != stamp:
            dataset.digests[index] = *stamp, file_digest(source)
    except OSError as error:
        raise UnusableImage(f"cannot be read: {error}") from error
    return dataset.digests[index][2]


def file_digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.digest()


def is_mirrored(augment: str, seed: tuple[int, ...], index: int) -> bool:
    """What becomes of image `index` where augmentation only mirrors."""
    return augment == "flip" and np.random.default_rng((*seed, index)).random() < MIRRORED


def load_pixels(
    dataset: Dataset,
    index: int,
    preprocessing: Preprocessing,
    augment: str = "none",
    seed: tuple[int, ...] = (),
    decode_limit_bytes: int = NO_LIMIT,
) -> np.ndarray:
    """uint8 (height, width, 3): image `index`, resized and cropped for the model.

    seed: of the augmentation, so that an image's fate depends on nothing else. Raises UnusableImage.
    """
    source = dataset.samples[index].source
    if dataset.arrays is not None:
        image = Image.fromarray(np.ascontiguousarray(dataset.arrays[source]))
    else:
        image = read_image(source, preprocessing, decode_limit_bytes)
    if augment == "crop":
        rng = np.random.default_rng((*seed, index))
        pixels, mirrored = random_crop(image, preprocessing, rng), rng.random() < MIRRORED
    else:
        pixels, mirrored = resize_and_crop(image, preprocessing), is_mirrored(augment, seed, index)
    return pixels[:, ::-1] if mirrored else pixels


def read_image(path: Path, preprocessing: Preprocessing, decode_limit_bytes: int) -> Image.Image:
    """The RGB image of a file, upright. A large JPEG is decoded at half, a quarter or an eighth of its size, as long as
    that is at least twice the size needed, or once where memory does not do for twice. Raises UnusableImage."""
    try:
        for factor in (2, 1):
            image = Image.open(path, formats=FORMATS)
            wanted = factor * max(preprocessing.resize_size)
            full_size = image.size
            image.draft("RGB", (wanted, wanted))
            needed_bytes = decode_bytes(image, full_size, preprocessing)
            if needed_bytes <= decode_limit_bytes:
                break
        else:
            raise UnusableImage(f"decoding takes {needed_bytes >> 20} MiB, more than the budget leaves")
        ImageOps.exif_transpose(image, in_place=True)
        return as_rgb(image)
    except UnusableImage:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on a damaged file
        raise UnusableImage(f"cannot be read: {error}") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Of 16 bits the upper 8, where Pillow would take all above 255 for white."""
    if image.mode in SIXTEEN_BITS:
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise UnusableImage(f"has values from {values.min()} to {values.max()}, not 8 or 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise UnusableImage("has floating-point values, whose range is not known")
    return image if image.mode == "RGB" else image.convert("RGB")


def decode_bytes(image: Image.Image, full_size: tuple[int, int], preprocessing: Preprocessing) -> int:
    """The most that decoding, turning, converting and resizing an image takes that has been opened, and not yet
    loaded."""
    copies = 1 if image.mode == "RGB" and image.getexif().get(ExifTags.Base.Orientation, 1) == 1 else 2
    copies += COPIES_OF_FORMAT.get(image.format, 0) + (image.mode in SIXTEEN_BITS)
    pixels_bytes = copies * BYTES_PER_PIXEL * image.width * image.height
    if image.format == "WEBP":
        pixels_bytes += os.path.getsize(image.filename)  # read whole
    # Resizing first makes all rows narrower.
    pixels_bytes += BYTES_PER_PIXEL * resized_size(image, preprocessing)[0] * image.height
    if not image.info.get("progressive"):
        return pixels_bytes
    # libjpeg holds all coefficients of a progressive image, 2 bytes each, at its full size.
    planes = [(horizontal, vertical) for _, horizontal, vertical, _ in image.layer]
    whole = max(horizontal for horizontal, _ in planes) * max(vertical for _, vertical in planes)
    samples = sum(horizontal * vertical for horizontal, vertical in planes) / whole
    return pixels_bytes + int(2 * samples * full_size[0] * full_size[1])


def random_crop(image: Image.Image, preprocessing: Preprocessing, rng: np.random.Generator) -> np.ndarray:
    """uint8 (height, width, 3): a random part of the image at the model's size."""
    area = image.width * image.height * rng.uniform(*CROP_SCALE)
    ratio = np.exp(rng.uniform(*np.log(CROP_RATIO)))
    width = min(image.width, max(1, round((area * ratio) ** 0.5)))
    height = min(image.height, max(1, round((area / ratio) ** 0.5)))
    left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    target_height, target_width = preprocessing.image_size
    resampling = RESAMPLING[preprocessing.interpolation]
    box = (left, top, left + width, top + height)
    return np.asarray(image.resize((target_width, target_height), resampling, box=box))


def resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 (height, width, 3), as timm's evaluation transform computes it."""
    height, width = preprocessing.image_size
    image = image.resize(resized_size(image, preprocessing), RESAMPLING[preprocessing.interpolation])
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return np.asarray(image.crop((left, top, left + width, top + height)))


def resized_size(image: Image.Image, preprocessing: Preprocessing) -> tuple[int, int]:
    """(width, height) before the centre crop."""
    resize_height, resize_width = preprocessing.resize_size
    if preprocessing.crop_mode == "squash":
        return resize_width, resize_height
    if image.width <= image.height:
        return resize_width, int(resize_width * image.height / image.width)
    return int(resize_height * image.width / image.height), resize_height


def normalize(pixels: np.ndarray, preprocessing: Preprocessing, out: np.ndarray) -> None:
    """Writes uint8 pixels (height, width, 3) as float32 (3, height, width), normalised, into `out`."""
    for channel in range(3):
        mean, std = preprocessing.mean[channel], preprocessing.std[channel]
        np.multiply(pixels[:, :, channel], np.float32(1 / (255 * std)), out=out[channel])
        out[channel] -= np.float32(mean / std)
