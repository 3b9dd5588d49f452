"""Images to measure a model's activations on."""

from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def calibration_images(folder: Path | None, count: int, preprocessing: Preprocessing, seed: int) -> np.ndarray:
    """uint8 (count, height, width, 3): images of `folder` and the folders in it, or else synthetic ones.

    Raises UserError for a folder without images.
    """
    if folder is None:
        return synthetic_images(count, preprocessing.image_size, seed)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"--calibration {folder} holds no images; give a folder with some {count} images of your kind")
    chosen = np.random.default_rng(seed).permutation(len(files))[:count]
    return np.stack([read_image(files[index], preprocessing) for index in chosen])


def read_image(path: Path, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 (height, width, 3)."""
    size = list(preprocessing.resize_size)
    resize = Resize(
        size if preprocessing.crop_mode == "squash" else min(size), InterpolationMode(preprocessing.interpolation)
    )
    try:
        image = Image.open(path).convert("RGB")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read calibration image {path}: {error}; remove it from the folder") from error
    return np.asarray(CenterCrop(preprocessing.image_size)(resize(image)))


def synthetic_images(count: int, image_size: tuple[int, int], seed: int) -> np.ndarray:
    """uint8 (count, height, width, 3): noise whose amplitude falls as 1 / frequency, as that of photographs does,
    so that a pretrained model's activations are closer to real ones than on white noise."""
    rng = np.random.default_rng(seed)
    height, width = image_size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf  # the mean is set below
    shape = (count, *frequency.shape, 3)
    spectrum = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / frequency[None, :, :, None]
    noise = np.fft.irfft2(spectrum, image_size, axes=(1, 2))
    noise /= noise.std(axis=(1, 2), keepdims=True)
    # Channels of a photograph go together.
    pixels = 118 + 55 * (0.85 * noise.mean(3, keepdims=True) * 3**0.5 + 0.5 * noise)
    return pixels.round().clip(0, 255).astype(np.uint8)
