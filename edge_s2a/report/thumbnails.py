"""Makes thumbnails of images that are still where the run found them."""

import base64
import contextlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.data.dataset import Dataset, dataset_of, open_dataset
from edge_s2a.device.data.decoding import UnusableImage
from edge_s2a.device.data.pixels import load_pixels
from edge_s2a.errors import UserError

SIDE = 112  # pixels; shown at 56 to 112 points
JPEG_QUALITY = 85
# Far more than an image that could be trained on takes, so that a page can be written on any workstation.
DECODE_LIMIT_BYTES = 512 << 20
WHOLE = Preprocessing((SIDE, SIDE), (SIDE, SIDE), "center", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def thumbnails(data: Path, classes: list[str], images: list[str]) -> dict[str, str]:
    """Returns image -> data URI, without those that cannot be read.

    data: the validation data, a folder or a .npz; images: as predictions.jsonl names them.
    """
    if data.suffix == ".npz":
        dataset = _arrays(data, classes, images)
    else:
        dataset = dataset_of(data, classes, [Path(image) for image in images])
    found: dict[str, str] = {}
    if dataset is None:
        return found
    for number, image in enumerate(images):
        with contextlib.suppress(UnusableImage, IndexError):
            pixels = load_pixels(dataset, number, WHOLE, "none", (), DECODE_LIMIT_BYTES)
            found[image] = _data_uri(Image.fromarray(pixels))
    return found


def _arrays(data: Path, classes: list[str], images: list[str]) -> Dataset | None:
    try:
        return open_dataset(data, "val", None, len(classes)).part(np.array([int(image) for image in images]))
    except (UserError, ValueError, IndexError):
        return None


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
