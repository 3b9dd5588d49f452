"""Images as they are in the field: each is used properly, or skipped and listed; never a wrong label, never a stop."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFile

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.data.dataset import open_dataset
from edge_s2a.device.data.decoding import NO_LIMIT, UnusableImage, image_of, opened, read_image
from edge_s2a.device.data.preprocessing import resize_bytes
from edge_s2a.errors import UserError
from tests.field.test_deep_images import write_png16
from tests.helpers.commands import assert_refused, run_command
from tests.helpers.images import samples_of, write_images
from tests.helpers.paths import PROJECT

SIZE = {"image_size": (32, 32), "resize_size": (36, 36), "crop_mode": "center", "interpolation": "bicubic"}
PLAIN = Preprocessing(**SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
OPTIONS = ["--memory-budget", "400MiB", "--batch-size", "14", "--threads", "1", "--epochs", "2"]


def photo(width=90, height=60) -> Image.Image:
    """Smooth colours, so that lossy formats keep them."""
    across, down = np.meshgrid(np.linspace(20, 235, width), np.linspace(20, 235, height))
    return Image.fromarray(np.stack([across, down, 255 - across], -1).astype(np.uint8))


def grey16(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


WRITERS = {
    "rgb.png": lambda path: photo().save(path),
    "grey.png": lambda path: photo().convert("L").save(path),
    "grey16.png": lambda path: grey16(photo()).save(path),
    "grey16.tif": lambda path: grey16(photo()).save(path),
    "palette.png": lambda path: photo().quantize(256).save(path),
    "transparent.png": lambda path: photo().convert("RGBA").save(path),
    "cmyk.jpg": lambda path: photo().convert("CMYK").save(path, quality=95),
    "cmyk.tif": lambda path: photo().convert("CMYK").save(path),
    "grey.jpg": lambda path: photo().convert("L").save(path, quality=95),
    "progressive.jpg": lambda path: photo().save(path, quality=95, progressive=True),
    "animated.gif": lambda path: photo().save(path, save_all=True, append_images=[Image.new("RGB", (90, 60))]),
    "animated.webp": lambda path: photo().save(
        path, save_all=True, append_images=[Image.new("RGB", (90, 60))], lossless=True
    ),
    "lzw.tif": lambda path: photo().save(path, compression="tiff_lzw"),
    "photo.bmp": lambda path: photo().save(path),
    "photo.ppm": lambda path: photo().save(path),
    "png named.jpg": lambda path: photo().save(path, format="PNG"),
    "jpeg named.png": lambda path: photo().save(path, format="JPEG", quality=95),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_image_gives_the_picture_that_it_shows(tmp_path, name):
    """Within 8 of 255: what JPEG and a palette of 256 colours lose on smooth colours."""
    WRITERS[name](tmp_path / name)
    found = np.asarray(read_image(tmp_path / name, PLAIN, NO_LIMIT), int)
    expected = photo().convert("L").convert("RGB") if "grey" in name else photo()
    assert np.abs(found - np.asarray(expected, int)).mean() < 8


UNUSABLE = {
    "empty.jpg": b"",
    "text.png": b"not an image",
    "half.jpg": None,
    "float.tif": None,
    "deep.tif": None,
    "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
}


def write_unusable(folder):
    for name, content in UNUSABLE.items():
        if content is not None:
            (folder / name).write_bytes(content)
    photo().save(folder / "half.jpg")
    whole = (folder / "half.jpg").read_bytes()
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.ones((9, 9), np.float32)).save(folder / "float.tif")
    Image.fromarray(np.full((9, 9), 1 << 20, np.int32)).save(folder / "deep.tif")


def test_what_cannot_be_used_says_why(tmp_path):
    write_unusable(tmp_path)
    for name in UNUSABLE:
        with pytest.raises(UnusableImage):
            read_image(tmp_path / name, PLAIN, NO_LIMIT)


MEASURE = """
import sys
from pathlib import Path
from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.data import decoding
from edge_s2a.device.data.preprocessing import augmented
from edge_s2a.system.memory import make_allocator_predictable, peak_resident_bytes
make_allocator_predictable()
plain = Preprocessing((224, 224), (248, 248), "center", "bicubic", (0.5,) * 3, (0.5,) * 3)
counted = []
decode_bytes = decoding.decode_bytes
decoding.decode_bytes = lambda *arguments: counted.append(decode_bytes(*arguments)) or counted[-1]
def read(path):
    augmented(decoding.read_image(Path(path), plain, decoding.NO_LIMIT, sys.argv[3]), plain, sys.argv[3], (0,), 0)
read(sys.argv[1])
before = peak_resident_bytes()
read(sys.argv[2])
print(peak_resident_bytes() - before, counted[-1])
"""
LARGE = {
    "rgb.png": {}, "grey16.png": {}, "photo.webp": {}, "lossless.webp": {"lossless": True, "method": 0},
    "photo.gif": {}, "lzw.tif": {"compression": "tiff_lzw"}, "progressive.jpg": {"progressive": True}, "photo.bmp": {},
    "photo.jpg": {}, "photo.ppm": {}, "colour16.png": {},
}  # fmt: skip


THIN = [(3000, 16), (16, 3000), (60_000, 4), (4, 60_000), (20_000, 120), (120, 20_000)]
WHAT = [(name, (2000, 1333), augment) for name in LARGE for augment in ("none", "crop")] + [
    ("rgb.png", size, augment) for size in THIN for augment in ("none", "crop")
]


@pytest.mark.parametrize(("name", "size", "augment"), WHAT)
def test_decoding_takes_no_more_than_is_counted(tmp_path, name, size, augment):
    """In a fresh process, at 2.7 megapixels, and for thin images; 1 MiB for a decoder's tables and the allocator."""
    files = []
    for place, measures in enumerate(((80, 60), size)):
        (tmp_path / str(place)).mkdir()
        files.append(tmp_path / str(place) / name)
        image = grey16(photo(*measures)) if "grey16" in name else photo(*measures)
        if name == "colour16.png":
            write_png16(np.asarray(image).astype(np.uint16) * 257, files[-1])
        else:
            image.save(files[-1], **LARGE[name])
    command = [sys.executable, "-c", MEASURE, *map(str, files), augment]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=True)
    measured, counted = map(int, done.stdout.split())
    assert measured <= counted + (1 << 20)
    if size in THIN:  # some pixels for the model, not a picture of 224 times 800,000
        assert counted < 12 << 20


@pytest.mark.parametrize("size", THIN)
def test_of_a_thin_image_no_more_is_counted_than_of_a_photo(size):
    """Beside the image itself."""
    plain = Preprocessing((224, 224), (248, 248), "center", "bicubic", (0.5,) * 3, (0.5,) * 3)
    assert resize_bytes(size, plain) < resize_bytes((4000, 3000), plain)


def test_pixels_and_images_of_a_program_are_counted_too():
    """What a camera gives is in memory already; resizing takes more, and converting it a copy."""
    large = np.zeros((3000, 4000, 3), np.uint8)
    grey = Image.fromarray(large[:, :, 0])
    assert image_of(large, PLAIN, 50 << 20).size == (4000, 3000)
    assert opened(grey, PLAIN, 50 << 20).size == (4000, 3000)
    for read in (lambda: image_of(large, PLAIN, 40 << 20), lambda: opened(grey, PLAIN, 40 << 20)):
        with pytest.raises(UnusableImage, match=r"4000 x 3000 pixels takes .* more than the 40.0 MiB that the budget"):
            read()


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    """Ten thousand times ten thousand grey pixels in a file of 100 kB."""
    Image.new("L", (10_000, 10_000)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    with pytest.raises(
        UnusableImage, match=r"10000 x 10000 pixels takes .* more than the 100.0 MiB that the budget leaves"
    ):
        read_image(tmp_path / "bomb.png", PLAIN, 100 << 20)


def test_a_png_that_says_behind_its_pixels_how_it_is_turned_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(90, 60).save(tmp_path / "before.png", exif=exif)
    content = (tmp_path / "before.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    moved = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    (tmp_path / "behind.png").write_bytes(moved)
    before, behind = (read_image(tmp_path / f"{name}.png", PLAIN, NO_LIMIT) for name in ("before", "behind"))
    assert before.size == (60, 90)
    np.testing.assert_array_equal(np.asarray(behind), np.asarray(before))
    needed = 4 * 90 * 60 + resize_bytes((90, 60), PLAIN)
    with pytest.raises(UnusableImage, match="that the budget leaves"):
        read_image(tmp_path / "behind.png", PLAIN, needed)


def field_folder(folder, classes):
    """`classes` in place of blue, green and red, each with an unusable image of every kind."""
    write_images(folder, 6, seed=0)
    for old, new in zip(("blue", "green", "red"), classes, strict=True):
        (folder / old).rename(folder / new)
        write_unusable(folder / new)
        (folder / new / "link.png").symlink_to(folder / new / "000.png")
        (folder / new / "nowhere.png").symlink_to(folder / "missing.png")
        os.mkfifo(folder / new / "pipe.png")
        (folder / new / "folder.png").mkdir()
        (folder / new / "notes.txt").write_text("not an image")
    return folder


def test_training_uses_what_it_can_and_lists_the_rest(small_artifact, tmp_path):
    data, run = field_folder(tmp_path / "data", ("blue", "green", "red")), tmp_path / "run"
    done = run_command("train", small_artifact, "--data", data, "--output", run, *OPTIONS, "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["skipped_images"] == 3 * len(UNUSABLE)
    listed = {(path.split(os.sep)[-2], path.split(os.sep)[-1]) for path in done.json["skipped"]}
    assert listed == {(name, file) for name in ("blue", "green", "red") for file in UNUSABLE}
    epochs = [line for line in map(json.loads, (run / "metrics.jsonl").open()) if line["kind"] == "epoch"]
    assert [line["skipped_images"] for line in epochs] == [3 * len(UNUSABLE)] * 2


def test_a_name_that_is_not_utf8_is_listed_as_well_as_it_can_be(small_artifact, tmp_path):
    data = write_images(tmp_path / "data", 6, seed=0)
    with open(os.path.join(os.fsencode(data / "red"), b"caf\xe9.png"), "wb") as file:
        file.write(b"broken")
    done = run_command("train", small_artifact, "--data", data, "--output", tmp_path / "run", *OPTIONS, "--json")
    assert done.returncode == 0, done.stderr
    assert [os.path.basename(path) for path in done.json["skipped"]] == ["caf\ufffd.png"]
    adapter = ["--adapter", tmp_path / "run" / "best.safetensors"]
    judged = run_command("eval", small_artifact, *adapter, "--data", data, "--json")
    assert [os.path.basename(path) for path in judged.json["skipped"]] == ["caf\ufffd.png"]


VANISHING = """
import sys
from pathlib import Path
from edge_s2a.device.training_loop import TrainingLoop
from edge_s2a.cli.main import main
finish = TrainingLoop.finish_epoch
def finish_and_change(run):
    finish(run)
    folder = Path(sys.argv[1])
    (folder / "red" / "000.png").unlink(missing_ok=True)
    (folder / "red" / "001.png").write_bytes(b"no longer an image")
TrainingLoop.finish_epoch = finish_and_change
sys.exit(main(sys.argv[2:]))
"""


def test_files_that_vanish_or_change_while_training_are_skipped(small_artifact, tmp_path):
    data = write_images(tmp_path / "data", 6, seed=0)
    arguments = ["train", small_artifact, "--data", data, "--output", tmp_path / "run", *OPTIONS, "--json"]
    command = [sys.executable, "-c", VANISHING, data, *arguments]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.returncode == 0, done.stderr
    skipped = json.loads(done.stdout)["skipped"]
    assert {os.path.basename(path) for path in skipped} == {"000.png", "001.png"}


SCRIPTS = ["крас", "красный", "الأحمر", "红色", "赤い 花", "żółty", "🌹"]


def test_class_names_in_any_script_keep_their_labels(small_artifact, tmp_path):
    for name in SCRIPTS:
        (tmp_path / name).mkdir()
        photo().save(tmp_path / name / "1.png")
    dataset = open_dataset(tmp_path, "train", None, len(SCRIPTS))
    assert dataset.classes == sorted(SCRIPTS)
    for sample in samples_of(dataset):
        assert sample.source.parent.name == dataset.classes[sample.label]


def test_one_accent_written_in_two_ways_is_one_class(tmp_path):
    """Folders of a Mac spell e and accent apart, a label file of Linux together."""
    apart, together = "cafe\u0301", "caf\u00e9"
    for name in (apart, "tea"):
        (tmp_path / name).mkdir()
        photo().save(tmp_path / name / "1.png")
    dataset = open_dataset(tmp_path, "train", [together, "tea"], 2)
    assert dataset.classes == [together, "tea"]
    assert {sample.label: sample.source.parent.name for sample in samples_of(dataset)} == {0: apart, 1: "tea"}
    (tmp_path / together).mkdir()
    with pytest.raises(UserError, match="the same name, written in two ways"):
        open_dataset(tmp_path, "train", [together, "tea"], 2)


def test_a_class_folder_that_is_not_utf8_is_refused(small_artifact, tmp_path):
    data = write_images(tmp_path / "data", 2, seed=0)
    os.rename(data / "red", os.path.join(os.fsencode(data), b"r\xe9d"))
    done = run_command("train", small_artifact, "--data", data, "--output", tmp_path / "run", *OPTIONS)
    assert_refused(done, 2, "is not UTF-8; rename this class folder")


def test_a_class_folder_that_is_a_link_is_followed_and_one_to_nowhere_is_not_a_class(tmp_path):
    write_images(tmp_path / "elsewhere", 2, seed=0)
    data = tmp_path / "data"
    data.mkdir()
    for name in ("blue", "green", "red"):
        (data / name).symlink_to(tmp_path / "elsewhere" / name)
    (data / "gone").symlink_to(tmp_path / "missing")
    assert open_dataset(data, "train", None, 3).classes == ["blue", "green", "red"]


READ_AS_NOBODY = """
import os, sys
from pathlib import Path
from edge_s2a.device.data.dataset import open_dataset
if os.geteuid() == 0:
    os.setuid(65534)  # root may read anything
open_dataset(Path(sys.argv[1]), "train", None, 3)
"""


def test_an_unreadable_folder_is_one_clear_error(tmp_path):
    data = write_images(tmp_path / "data", 2, seed=0)
    (data / "red").chmod(0)
    for parent in [data, *data.parents][:-2]:
        parent.chmod(parent.stat().st_mode | 0o055)
    command = [sys.executable, "-c", READ_AS_NOBODY, str(data)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
    assert f"UserError: cannot read folder {data / 'red'}: Permission denied" in done.stderr
