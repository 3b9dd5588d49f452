"""The device's decoding, resizing, cropping and normalising equal timm's evaluation transform."""

import numpy as np
import pytest
import timm
from PIL import Image
from timm.data import create_transform, resolve_data_config

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.data.dataset import dataset_of
from edge_s2a.device.data.pixels import load_pixels
from edge_s2a.device.data.preprocessing import normalize, part_to_resize, resize_and_crop
from edge_s2a.host.sources.preprocessing import preprocessing_of


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "vit_base_patch16_clip_224", "vit_base_patch16_siglip_224"])
@pytest.mark.parametrize("size", [(301, 260), (240, 333), (224, 224), (90, 61)])
def test_pixels_equal_timm(tmp_path, name, size):
    model = timm.create_model(name, depth=1, num_classes=2)
    config = resolve_data_config({}, model=model)
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    image.save(tmp_path / "image.png")
    expected = create_transform(**config)(image).numpy()

    preprocessing = preprocessing_of(model, None)
    dataset = dataset_of(tmp_path, ["a"], [tmp_path / "image.png"])
    measured = np.empty_like(expected)
    normalize(load_pixels(dataset, 0, preprocessing), preprocessing, measured)
    # The same Pillow resize, so pixels are identical; normalising multiplies instead of dividing.
    np.testing.assert_allclose(measured, expected, atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize("size", [(3000, 16), (16, 3000), (4000, 300), (61, 900), (20000, 700)])
def test_thin_images_equal_timm_though_only_a_part_is_resized(interpolation, size):
    """Within 2 of 255 on noise, and for one pixel in thirty not at all: Pillow has borders in single precision."""
    config = {"input_size": (3, 224, 224), "interpolation": interpolation, "crop_pct": 0.9, "crop_mode": "center"}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))
    transform = create_transform(**config, mean=(0, 0, 0), std=(1, 1, 1))
    expected = np.round(255 * transform(image).numpy().transpose(1, 2, 0)).astype(int)
    preprocessing = Preprocessing((224, 224), (248, 248), "center", interpolation, (0.5,) * 3, (0.5,) * 3)
    assert part_to_resize(image.size, preprocessing) is not None
    difference = np.abs(resize_and_crop(image, preprocessing) - expected)
    assert difference.max() <= 2
    assert (difference > 0).mean() < 1 / 30
