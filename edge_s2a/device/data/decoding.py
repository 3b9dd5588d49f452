"""Decodes image files within a memory limit."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from edge_s2a.artifact.intensity import Intensity
from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.data.intensity import (
    GREY,
    OTHER_ORDER,
    ROWS,
    Range,
    UnusableValues,
    is_deep,
    is_deep_colour,
    range_of,
    raw_mode,
    rule_for,
    scaled,
)
from edge_s2a.device.data.preprocessing import BYTES_PER_PIXEL, resize_bytes
from edge_s2a.sizes import format_size

SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
# Whatever else Pillow could read is not tried: each format is code that a hostile file reaches.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
PLUGINS = (
    BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, PpmImagePlugin, TiffImagePlugin, WebPImagePlugin
)  # fmt: skip
# What Pillow warns of is harmless, or the image is skipped and listed.
warnings.filterwarnings("ignore", module="PIL")
# Whole images that are held beside the decoded one, measured: by WebP's decoder two canvases and the pixels copied from
# them, by TIFF's the strip that may be all of it, by PPM's its bytes, twice, where it is written in Python, and where
# 16 bits become 8.
COPIES_OF_FORMAT = {"WEBP": 3, "TIFF": 1, "PPM": 2}
DEEP_COPIES = 3  # of colours of 16 bits: their lower bytes, and their 8 bits twice
TURNED = (5, 6, 7, 8)  # orientations that swap width and height
NO_LIMIT = 1 << 62


class UnusableImage(Exception):
    """An image that cannot be read, or that would take too much memory to decode."""


def read_image(
    path: Path,
    preprocessing: Preprocessing,
    decode_limit_bytes: int,
    augment: str = "none",
    intensity: Intensity | None = None,
) -> Image.Image:
    """The RGB image of a file, upright. intensity: what is black and white where there are more than 8 bits.

    A large JPEG is decoded at a half, a quarter or an eighth of its size, as long as that is at least twice the size
    needed, or, where memory is too short for that, at least the size needed. Raises UnusableImage if even that takes
    more than `decode_limit_bytes`, what resizing and augmenting then take included, or if the file cannot be decoded.
    """
    with decoders_errors():
        for factor in (2, 1):
            image = Image.open(path, formats=FORMATS)
            wanted = factor * max(preprocessing.resize_size)
            full_size = image.size
            image.draft("RGB", (wanted, wanted))
            needed_bytes = decode_bytes(image, full_size, preprocessing, augment)
            if needed_bytes <= decode_limit_bytes:
                break
        require_room(full_size, needed_bytes, decode_limit_bytes)
        counted = orientation_of(image)
        low = lower_bytes(path) if is_deep_colour(image) else None
        image.load()
        if orientation_of(image) != counted:  # a PNG may say it behind its pixels
            require_room(full_size, needed_bytes + BYTES_PER_PIXEL * image.width * image.height, decode_limit_bytes)
        ImageOps.exif_transpose(image, in_place=True)
        return as_rgb(image, intensity) if low is None else deep_colours(image, low, intensity)


def image_of(
    pixels: np.ndarray, preprocessing: Preprocessing, decode_limit_bytes: int, augment: str = "none"
) -> Image.Image:
    """The same of pixels uint8 (height, width, 3), which are copied."""
    height, width, _ = pixels.shape
    if not pixels.size:
        raise UnusableImage(f"has no pixels: {pixels.shape}")
    copies_bytes = BYTES_PER_PIXEL * width * height + (0 if pixels.flags.c_contiguous else pixels.nbytes)
    needed_bytes = copies_bytes + resize_bytes((width, height), preprocessing, augment)
    require_room((width, height), needed_bytes, decode_limit_bytes)
    return Image.fromarray(np.ascontiguousarray(pixels))


def opened(
    image: Image.Image, preprocessing: Preprocessing, decode_limit_bytes: int, intensity: Intensity | None = None
) -> Image.Image:
    """The same of an image that a program has opened, not turned."""
    if not all(image.size):
        raise UnusableImage(f"has no pixels: {image.size}")
    if isinstance(image, ImageFile.ImageFile) and image.tile:  # not loaded yet
        needed_bytes = decode_bytes(image, image.size, preprocessing)
    else:
        copies = (image.mode != "RGB") + (image.mode in GREY)
        needed_bytes = copies * BYTES_PER_PIXEL * image.width * image.height + resize_bytes(image.size, preprocessing)
    require_room(image.size, needed_bytes, decode_limit_bytes)
    with decoders_errors():
        return as_rgb(image, intensity)


@contextlib.contextmanager
def decoders_errors() -> Iterator[None]:
    """Raises UnusableImage for whatever a decoder raises."""
    try:
        yield
    except UnusableImage:
        raise
    except UnusableValues as error:
        raise UnusableImage(str(error)) from error
    except Exception as error:  # Pillow's decoders raise almost anything on a damaged file
        raise UnusableImage(f"cannot be read: {error}") from error


def orientation_of(image: ImageFile.ImageFile) -> int:
    """The EXIF orientation, as far as it is known. Does not load the image, as Pillow's PNG does that is asked for its
    EXIF and has not seen any yet."""
    if isinstance(image, PngImagePlugin.PngImageFile) and image.tile and "exif" not in image.info:
        return 1
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def require_room(size: tuple[int, int], needed_bytes: int, limit_bytes: int) -> None:
    """Raises UnusableImage for an image of `size` (width, height) that takes more than there is."""
    if needed_bytes > limit_bytes:
        raise UnusableImage(
            f"decoding and resizing its {size[0]} x {size[1]} pixels takes {format_size(needed_bytes)}, more than the "
            f"{format_size(limit_bytes)} that the budget leaves for it"
        )


def as_rgb(image: Image.Image, intensity: Intensity | None = None) -> Image.Image:
    """The image in RGB. Raises UnusableValues where it is not known which of its values are white."""
    if image.mode in GREY:
        values = np.asarray(image)
        image = Image.fromarray(scaled(values, rule_for(range_of(values), intensity)))
    return image if image.mode == "RGB" else image.convert("RGB")


def lower_bytes(path: Path) -> Image.Image | None:
    """The image of the lower bytes of colours of 16 bits, turned as the file says; None where they cannot be had."""
    image = Image.open(path, formats=FORMATS)
    other = OTHER_ORDER.get(raw_mode(image))
    if other is None:
        return None
    image.tile = [
        tile._replace(args=other if isinstance(tile.args, str) else (other, *(tile.args or ())[1:]))
        for tile in image.tile
    ]
    return ImageOps.exif_transpose(image)


def deep_colours(high: Image.Image, low: Image.Image, intensity: Intensity | None) -> Image.Image:
    """The RGB image of colours of 16 bits, from their upper and lower bytes."""
    rule = rule_for(range_of_colours(high, low), intensity)
    pixels = np.empty((high.height, high.width, 3), np.uint8)
    for start, values in strips(high, low):
        pixels[start : start + len(values)] = scaled(values, rule)
    return Image.fromarray(pixels)


def range_of_colours(high: Image.Image, low: Image.Image) -> Range:
    ranges = [range_of(values) for _, values in strips(high, low)]
    return Range(min(part.least for part in ranges), max(part.most for part in ranges), False)


def strips(high: Image.Image, low: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first row, uint16 (rows, width, 3))."""
    for start in range(0, high.height, ROWS):
        box = (0, start, high.width, min(start + ROWS, high.height))
        upper, lower = (np.asarray(image.crop(box))[:, :, :3] for image in (high, low))
        yield start, (upper.astype(np.uint16) << 8) | lower


def deep_range(path: Path, limit_bytes: int) -> Range | None:
    """Which values an image of more than 8 bits has; None for one of 8, and for one that cannot be read within
    `limit_bytes`."""
    with contextlib.suppress(UnusableImage), decoders_errors():
        image = Image.open(path, formats=FORMATS)
        if not is_deep(image) or DEEP_COPIES * BYTES_PER_PIXEL * image.width * image.height > limit_bytes:
            return None
        if image.mode in GREY:
            return range_of(np.asarray(image))
        low = lower_bytes(path)
        return None if low is None else range_of_colours(ImageOps.exif_transpose(image), low)
    return None


def decode_bytes(
    image: ImageFile.ImageFile, full_size: tuple[int, int], preprocessing: Preprocessing, augment: str = "none"
) -> int:
    """The largest memory that it takes to decode, turn, convert, resize and augment an image that is open but not yet
    loaded.

    full_size: (width, height) in the file; the image itself may be drafted smaller.
    """
    orientation = orientation_of(image)
    copies = 1 if image.mode == "RGB" and orientation == 1 else 2
    copies += COPIES_OF_FORMAT.get(image.format or "", 0)
    copies += 1 if image.mode in GREY else DEEP_COPIES if is_deep_colour(image) else 0
    pixels_bytes = copies * BYTES_PER_PIXEL * image.width * image.height
    if image.format == "WEBP" and image.filename:
        pixels_bytes += os.path.getsize(image.filename)  # read whole
    upright_size = image.size[::-1] if orientation in TURNED else image.size
    pixels_bytes += resize_bytes(upright_size, preprocessing, augment)
    if not (isinstance(image, JpegImagePlugin.JpegImageFile) and image.info.get("progressive")):
        return pixels_bytes
    # libjpeg holds all coefficients of a progressive image, 2 bytes each, at its full size.
    planes = [(horizontal, vertical) for _, horizontal, vertical, _ in image.layer]
    whole = max(horizontal for horizontal, _ in planes) * max(vertical for _, vertical in planes)
    samples = sum(horizontal * vertical for horizontal, vertical in planes) / whole
    return pixels_bytes + int(2 * samples * full_size[0] * full_size[1])
