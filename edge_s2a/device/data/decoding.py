"""Decodes image files within a memory limit."""

import os
import warnings
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

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.data.preprocessing import resized_size

SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
# Whatever else Pillow could read is not tried: each format is code that a hostile file reaches.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
PLUGINS = (
    BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, PpmImagePlugin, TiffImagePlugin, WebPImagePlugin
)  # fmt: skip
# What Pillow warns of is harmless, or the image is skipped and listed.
warnings.filterwarnings("ignore", module="PIL")
BYTES_PER_PIXEL = 4  # how Pillow holds RGB
# Whole images that are held beside the decoded one, measured: by WebP's decoder two canvases and the pixels copied from
# them, by TIFF's the strip that may be all of it, and where 16 bits become 8.
COPIES_OF_FORMAT = {"WEBP": 3, "TIFF": 1}
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")
NO_LIMIT = 1 << 62


class UnusableImage(Exception):
    """An image that cannot be read, or that would take too much memory to decode."""


def read_image(path: Path, preprocessing: Preprocessing, decode_limit_bytes: int) -> Image.Image:
    """The RGB image of a file, upright.

    A large JPEG is decoded at a half, a quarter or an eighth of its size, as long as that is at least twice the size
    needed, or, where memory is too short for that, at least the size needed. Raises UnusableImage if even that takes
    more than `decode_limit_bytes`, or if the file cannot be decoded.
    """
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
    """The image in RGB. Of 16 bits it takes the upper 8, where Pillow would take everything above 255 for white.
    Raises UnusableImage for other depths."""
    if image.mode in SIXTEEN_BITS:
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise UnusableImage(f"has values from {values.min()} to {values.max()}, not 8 or 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise UnusableImage("has floating-point values, whose range is not known")
    return image if image.mode == "RGB" else image.convert("RGB")


def decode_bytes(image: ImageFile.ImageFile, full_size: tuple[int, int], preprocessing: Preprocessing) -> int:
    """The largest memory that it takes to decode, turn, convert and resize an image that is open but not yet loaded.

    full_size: (width, height) in the file; the image itself may be drafted smaller.
    """
    copies = 1 if image.mode == "RGB" and image.getexif().get(ExifTags.Base.Orientation, 1) == 1 else 2
    copies += COPIES_OF_FORMAT.get(image.format or "", 0) + (image.mode in SIXTEEN_BITS)
    pixels_bytes = copies * BYTES_PER_PIXEL * image.width * image.height
    if image.format == "WEBP":
        pixels_bytes += os.path.getsize(image.filename)  # read whole
    # Resizing first makes all rows narrower.
    pixels_bytes += BYTES_PER_PIXEL * resized_size(image, preprocessing)[0] * image.height
    if not (isinstance(image, JpegImagePlugin.JpegImageFile) and image.info.get("progressive")):
        return pixels_bytes
    # libjpeg holds all coefficients of a progressive image, 2 bytes each, at its full size.
    planes = [(horizontal, vertical) for _, horizontal, vertical, _ in image.layer]
    whole = max(horizontal for horizontal, _ in planes) * max(vertical for _, vertical in planes)
    samples = sum(horizontal * vertical for horizontal, vertical in planes) / whole
    return pixels_bytes + int(2 * samples * full_size[0] * full_size[1])
