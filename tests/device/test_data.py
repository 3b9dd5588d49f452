"""Reading data: folders, arrays, damaged images, and the loader's thread."""

import threading

import numpy as np
import pytest
from PIL import Image

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.data.dataset import open_dataset
from edge_s2a.device.data.decoding import UnusableImage, read_image
from edge_s2a.device.data.loader import stream
from edge_s2a.device.data.pixels import load_pixels
from edge_s2a.errors import UserError
from tests.helpers.images import samples_of, write_images

PLAIN = Preprocessing((32, 32), (36, 36), "center", "bicubic", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path / "data", 3, seed=0)


def test_folder_names_are_the_classes_in_order(folder):
    dataset = open_dataset(folder, "train", None, 3)
    assert dataset.classes == ["blue", "green", "red"]
    assert [sample.label for sample in samples_of(dataset)] == [0] * 3 + [1] * 3 + [2] * 3


def test_labels_of_the_artifact_decide_the_order(folder):
    dataset = open_dataset(folder, "train", ["red", "blue", "green"], 3)
    assert {s.source.parent.name: s.label for s in samples_of(dataset)} == {"red": 0, "blue": 1, "green": 2}


def test_validation_may_lack_a_class(folder):
    for file in (folder / "green").iterdir():
        file.unlink()
    (folder / "green").rmdir()
    assert len(open_dataset(folder, "val", ["blue", "green", "red"], 3)) == 6
    with pytest.raises(UserError, match=r"missing \['green'\]"):
        open_dataset(folder, "train", ["blue", "green", "red"], 3)


def test_split_folders_are_found(folder, tmp_path):
    (tmp_path / "split").mkdir()
    folder.rename(tmp_path / "split" / "train")
    write_images(tmp_path / "split" / "val", 2, seed=1)
    assert len(open_dataset(tmp_path / "split", "train", None, 3)) == 9
    assert len(open_dataset(tmp_path / "split", "val", None, 3)) == 6


def test_arrays_give_the_same_pixels_as_files(folder, tmp_path):
    files = open_dataset(folder, "train", None, 3)
    images = np.stack([np.asarray(Image.open(s.source)) for s in samples_of(files)])
    np.savez(tmp_path / "data.npz", images=images, labels=[s.label for s in samples_of(files)])
    arrays = open_dataset(tmp_path / "data.npz", "train", None, 3)
    for index in range(9):
        np.testing.assert_array_equal(load_pixels(arrays, index, PLAIN), load_pixels(files, index, PLAIN))


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"images": np.zeros((2, 8, 8, 3), np.float32), "labels": [0, 1]}, "expected uint8"),
        ({"images": np.zeros((2, 8, 8, 3), np.uint8), "labels": [0, 3]}, "from 0 to 2"),
        ({"images": np.zeros((2, 8, 8, 3), np.uint8)}, "labels"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, arrays, part):
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(UserError, match=part):
        open_dataset(tmp_path / "data.npz", "train", None, 3)


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path):
    ramp = np.linspace(0, 255, 2000, dtype=np.uint8)
    pixels = np.stack(
        [np.tile(ramp, (1600, 1)), np.tile(ramp[:1600, None], (1, 2000)), np.zeros((1600, 2000), np.uint8)], -1
    )
    Image.fromarray(pixels).save(tmp_path / "large.jpg", quality=95)
    small = read_image(tmp_path / "large.jpg", PLAIN, decode_limit_bytes=1 << 20)
    assert max(small.size) <= 2000 // 8
    full = Image.open(tmp_path / "large.jpg").convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
    difference = np.abs(np.asarray(small.resize((32, 32), Image.Resampling.BICUBIC), int) - np.asarray(full, int))
    assert difference.max() <= 3


def test_an_image_too_large_for_the_budget_is_unusable(tmp_path):
    Image.fromarray(np.zeros((1600, 2000, 3), np.uint8)).save(tmp_path / "large.png")
    with pytest.raises(UnusableImage, match="budget"):
        read_image(tmp_path / "large.png", PLAIN, decode_limit_bytes=1 << 20)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "I;16", "1"])
def test_every_colour_mode_becomes_rgb(tmp_path, mode):
    suffix = "tif" if mode in ("CMYK", "I;16") else "png"
    Image.new(mode, (50, 40)).save(tmp_path / f"image.{suffix}")
    image = read_image(tmp_path / f"image.{suffix}", PLAIN, 1 << 30)
    assert (image.mode, image.size) == ("RGB", (50, 40))


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (60, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    image.save(tmp_path / "image.jpg", exif=exif)
    assert read_image(tmp_path / "image.jpg", PLAIN, 1 << 30).size == (40, 60)


def test_augmentation_depends_on_seed_and_image_alone(folder):
    dataset = open_dataset(folder, "train", None, 3)
    first = load_pixels(dataset, 4, PLAIN, "crop", (7, 1))
    np.testing.assert_array_equal(first, load_pixels(dataset, 4, PLAIN, "crop", (7, 1)))
    assert first.shape == (32, 32, 3)
    assert (first != load_pixels(dataset, 4, PLAIN, "crop", (7, 2))).any()


def test_flip_mirrors_about_half(folder):
    dataset = open_dataset(folder, "train", None, 3)
    plain = load_pixels(dataset, 0, PLAIN)
    mirrored = 0
    for seed in range(200):
        pixels = load_pixels(dataset, 0, PLAIN, "flip", (seed,))
        mirrored += int((pixels == plain[:, ::-1]).all())
        assert (pixels == plain).all() or (pixels == plain[:, ::-1]).all()
    assert 70 < mirrored < 130  # 100 expected; 4 standard deviations are 28


def test_loader_keeps_order_skips_and_remembers_unreadable_images(folder):
    dataset = open_dataset(folder, "train", None, 3)
    tried = []

    def load(index):
        tried.append(index)
        if index == 3:
            raise UnusableImage("broken")
        return np.full((1, 1, 3), index)

    order = [5, 3, 1, 8]
    for _ in range(2):
        assert [(place, i, int(p[0, 0, 0])) for place, i, p in stream(dataset, order, load, 2)] == [
            (0, 5, 5), (2, 1, 1), (3, 8, 8),
        ]  # fmt: skip
    assert tried.count(3) == 1
    assert dataset.skipped == {str(samples_of(dataset)[3].source): "broken"}


def test_loader_never_runs_further_ahead_than_its_queue(folder):
    dataset = open_dataset(folder, "train", None, 3)
    loaded = []
    images = stream(dataset, range(9), lambda index: loaded.append(index) or np.zeros(1), 2)
    next(images)
    for _ in range(50):
        threading.Event().wait(0.01)
    assert len(loaded) <= 1 + 2 + 1  # taken, queued, in the thread's hand
    images.close()
    assert all(thread.name != "edge-s2a loader" for thread in threading.enumerate())


def test_an_error_in_the_thread_reaches_the_consumer(folder):
    def load(index):
        raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        list(stream(open_dataset(folder, "train", None, 3), range(3), load, 2))
