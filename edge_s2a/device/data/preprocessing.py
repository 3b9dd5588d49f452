"""Turns an image into pixels of the model's size, and pixels into the model's input."""

import numpy as np
from PIL import Image

from edge_s2a.artifact.manifest import Preprocessing

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
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
    """Writes uint8 pixels (height, width, 3), normalised, into `out`, float32 (3, height, width)."""
    for channel in range(3):
        mean, std = preprocessing.mean[channel], preprocessing.std[channel]
        np.multiply(pixels[:, :, channel], np.float32(1 / (255 * std)), out=out[channel])
        out[channel] -= np.float32(mean / std)
