"""Image folders that a model can learn, and photos."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from edge_s2a.device.data.dataset import Dataset


def write_images(folder: Path, per_class: int, seed: int, size: int = 40) -> Path:
    """Writes FOLDER/<colour>/<n>.png: noise tinted in the colour of its class, so that a model can learn it."""
    rng = np.random.default_rng(seed)
    for channel, name in ((2, "blue"), (1, "green"), (0, "red")):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 120, (size, size, 3), np.uint8)
            pixels[:, :, channel] += 100
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")
    return folder


def write_photos(folder: Path) -> Path:
    """Writes FOLDER/<label>/<n>.jpg: five classes of eight 300x260 JPEGs, the size of small photos."""
    rng = np.random.default_rng(0)
    for label in range(5):
        (folder / str(label)).mkdir()
        for number in range(8):
            coarse = rng.integers(0, 256, (13, 15, 3), np.uint8)
            Image.fromarray(coarse).resize((300, 260)).save(folder / str(label) / f"{number}.jpg")
    return folder


class Sample(NamedTuple):
    """A labelled image of a dataset."""

    source: Path | np.ndarray  # file, or pixels of a .npz
    label: int


def samples_of(dataset: Dataset) -> list[Sample]:
    """All images of a dataset, in its order."""
    return [Sample(dataset.stored(index), int(label)) for index, label in enumerate(dataset.labels)]
