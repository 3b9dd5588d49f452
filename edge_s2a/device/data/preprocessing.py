"""Turns an image into pixels of the model's size, and pixels into the model's input."""

import math

import numpy as np
from PIL import Image

from edge_s2a.artifact.manifest import Preprocessing

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
REACH = {"nearest": 0.5, "bilinear": 1, "bicubic": 2, "lanczos": 3}  # of the filters, in pixels of the smaller picture
BYTES_PER_PIXEL = 4  # how Pillow holds RGB
# A picture whose resized form has more than this many times the pixels of the crop is cropped before it is resized.
THIN = 4
MIRRORED = 0.5  # share of the images
# Random crop: shares of the image's area, and aspect ratios.
CROP_SCALE, CROP_RATIO = (0.35, 1.0), (3 / 4, 4 / 3)


def augmented(
    image: Image.Image, preprocessing: Preprocessing, augment: str, seed: tuple[int, ...], index: int
) -> np.ndarray:
    """uint8 (height, width, 3): image `index`, augmented and at the model's size.

    augment: "none"; "flip", mirrored half of the time; or "crop", also a random part of the image. seed: with `index`
    it decides the augmentation, which depends on nothing else.
    """
    if augment == "crop":
        rng = np.random.default_rng((*seed, index))
        pixels, mirrored = random_crop(image, preprocessing, rng), rng.random() < MIRRORED
    else:
        pixels, mirrored = resize_and_crop(image, preprocessing), is_mirrored(augment, seed, index)
    return pixels[:, ::-1] if mirrored else pixels


def is_mirrored(augment: str, seed: tuple[int, ...], index: int) -> bool:
    """Whether the augmentation "flip" mirrors image `index`; False for the others."""
    return augment == "flip" and np.random.default_rng((*seed, index)).random() < MIRRORED


def random_crop(image: Image.Image, preprocessing: Preprocessing, rng: np.random.Generator) -> np.ndarray:
    """uint8 (height, width, 3): a random part of the image at the model's size (arXiv 1409.4842)."""
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
    """uint8 (height, width, 3), as timm's evaluation transform computes it; of a thin image within 2 of 255, because
    Pillow takes the borders of what it resizes in single precision."""
    height, width = preprocessing.image_size
    resampling = RESAMPLING[preprocessing.interpolation]
    resized_width, resized_height = resized_size(image.size, preprocessing)
    left, top = round((resized_width - width) / 2), round((resized_height - height) / 2)
    box = part_to_resize(image.size, preprocessing)
    if box is None:
        image = image.resize((resized_width, resized_height), resampling)
        return np.asarray(image.crop((left, top, left + width, top + height)))
    across, down = image.width / resized_width, image.height / resized_height
    target = (
        left * across - box[0], top * down - box[1], (left + width) * across - box[0], (top + height) * down - box[1]
    )  # fmt: skip
    return np.asarray(image.crop(box).resize((width, height), resampling, target))


def part_to_resize(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int, int, int] | None:
    """The part of an image of `size` (width, height), (left, top, right, bottom), that the centre crop depends on,
    where the rest is so much that it must not be resized; None elsewhere."""
    resized = resized_size(size, preprocessing)
    target = preprocessing.image_size[::-1]
    is_padded = target[0] > resized[0] or target[1] > resized[1]
    if is_padded or resized[0] * resized[1] <= THIN * target[0] * target[1]:
        return None
    ends: list[tuple[int, int]] = []
    for have, want, crop in zip(size, resized, target, strict=True):
        scale = have / want
        reach = REACH[preprocessing.interpolation] * max(1, scale) + 1
        first = round((want - crop) / 2)
        start, end = math.floor(first * scale - reach), math.ceil((first + crop) * scale + reach)
        ends.append((max(0, start), min(have, end)))
    (left, right), (top, bottom) = ends
    return left, top, right, bottom


def resize_bytes(size: tuple[int, int], preprocessing: Preprocessing, augment: str = "none") -> int:
    """The memory that it takes, beside an image of `size` (width, height) in RGB, to bring it to the model's size."""
    height, width = preprocessing.image_size
    # The crop, and two copies of it on its way to numpy. Before it, rows become narrower, then columns shorter.
    pixels = 3 * width * height
    if augment == "crop":
        rows = min(size[1], math.ceil((size[0] * size[1] * CROP_SCALE[1] / CROP_RATIO[0]) ** 0.5))  # at most
        return BYTES_PER_PIXEL * (pixels + width * rows)
    resized = resized_size(size, preprocessing)
    box = part_to_resize(size, preprocessing)
    if box is None:
        return BYTES_PER_PIXEL * (pixels + resized[0] * size[1] + resized[0] * resized[1])
    rows = box[3] - box[1]
    return BYTES_PER_PIXEL * (pixels + (box[2] - box[0]) * rows + width * rows)


def resized_size(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """(width, height) of an image of `size` (width, height) before the centre crop."""
    width, height = size
    resize_height, resize_width = preprocessing.resize_size
    if preprocessing.crop_mode == "squash":
        return resize_width, resize_height
    if width <= height:
        return resize_width, int(resize_width * height / width)
    return int(resize_height * width / height), resize_height


def normalize(pixels: np.ndarray, preprocessing: Preprocessing, out: np.ndarray) -> None:
    """Writes uint8 pixels (height, width, 3), normalised, into `out`, float32 (3, height, width)."""
    for channel in range(3):
        mean, std = preprocessing.mean[channel], preprocessing.std[channel]
        np.multiply(pixels[:, :, channel], np.float32(1 / (255 * std)), out=out[channel])
        out[channel] -= np.float32(mean / std)
