"""The device's decoding, resizing, cropping and normalising equal timm's evaluation transform."""

import numpy as np
import pytest
import timm
from PIL import Image
from timm.data import create_transform, resolve_data_config

from edge_s2a.device.data.dataset import Dataset, Sample
from edge_s2a.device.data.pixels import load_pixels
from edge_s2a.device.data.preprocessing import normalize
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
    dataset = Dataset(tmp_path, ["a"], [Sample(tmp_path / "image.png", 0)])
    measured = np.empty_like(expected)
    normalize(load_pixels(dataset, 0, preprocessing), preprocessing, measured)
    # The same Pillow resize, so pixels are identical; normalising multiplies instead of dividing.
    np.testing.assert_allclose(measured, expected, atol=2e-6, rtol=1e-6)
