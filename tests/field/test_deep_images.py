"""Images of more than 8 bits, as of industrial cameras, X-ray and depth sensors: one rule for a data set."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_s2a import Learner, Trainer
from edge_s2a.artifact.adapter import intensity_of
from edge_s2a.artifact.intensity import Intensity, parse_intensity
from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.data.decoding import NO_LIMIT, UnusableImage, decode_bytes, deep_range, read_image
from edge_s2a.device.data.intensity import Range, bits_used, some_of
from edge_s2a.errors import UserError
from tests.helpers.commands import assert_refused, run_command, run_here
from tests.helpers.images import write_images

PLAIN = Preprocessing((32, 32), (36, 36), "center", "bicubic", (0.5,) * 3, (0.5,) * 3)


def write_png16(values: np.ndarray, path: Path) -> None:
    """values: uint16 (height, width) or (height, width, 2, 3 or 4). Pillow writes no colours of 16 bits."""
    height, width, *bands = values.shape
    colour = {(): 0, (2,): 4, (3,): 2, (4,): 6}[tuple(bands)]

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + end)


def write_tiff16(values: np.ndarray, path: Path, order: str) -> None:
    """Colours, uint16 (height, width, 3), uncompressed. order: "<" or ">"."""
    height, width, _ = values.shape
    fields = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 0), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 0),
              (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, values.nbytes)]  # fmt: skip
    start = 8 + 2 + 12 * len(fields) + 4
    content = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(fields))
    for tag, kind, count, value in fields:
        value = {258: start, 273: start + 6}.get(tag, value)
        short = kind == 3 and count == 1
        content += struct.pack(
            f"{order}HHI" + ("HH" if short else "I"), tag, kind, count, *((value, 0) if short else (value,))
        )
    content += struct.pack(f"{order}IHHH", 0, 16, 16, 16) + values.astype(f"{order}u2").tobytes()
    path.write_bytes(content)


def ramp(bits: int, bands: int = 0) -> np.ndarray:
    """uint16 (40, 60) or (40, 60, bands), from black to what is white in so many bits."""
    values = np.linspace(0, (1 << bits) - 1, 2400).reshape(40, 60).round().astype(np.uint16)
    return np.stack([np.roll(values, 7 * band, 1) for band in range(bands)], -1) if bands else values


def eight_bits(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """The picture by the formula, in double precision."""
    pixels = np.clip(np.rint(255 * (values.astype(float) - black) / (white - black)), 0, 255).astype(np.uint8)
    return np.stack([pixels] * 3, -1) if pixels.ndim == 2 else pixels[:, :, :3]


DEEP = {
    "grey.png": (0, write_png16),
    "colour.png": (3, write_png16),
    "transparent.png": (4, write_png16),
    "grey.tif": (0, lambda values, path: Image.fromarray(values).save(path)),
    "lzw.tif": (0, lambda values, path: Image.fromarray(values).save(path, compression="tiff_lzw")),
    "little.tif": (3, lambda values, path: write_tiff16(values, path, "<")),
    "big.tif": (3, lambda values, path: write_tiff16(values, path, ">")),
}


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("name", DEEP)
def test_every_bit_of_a_deep_image_counts(tmp_path, name, bits):
    """Within 1 of 255: the product is computed in single precision."""
    bands, write = DEEP[name]
    values = ramp(bits, bands)
    write(values, tmp_path / name)
    intensity = Intensity(0, (1 << bits) - 1)
    assert deep_range(tmp_path / name, NO_LIMIT) == Range(
        0, (values if values.ndim == 2 else values[:, :, :3]).max(), False
    )
    found = np.asarray(read_image(tmp_path / name, PLAIN, NO_LIMIT, intensity=intensity), int)
    assert np.abs(found - eight_bits(values, *intensity)).max() <= 1
    assert found.min() == 0
    assert found.max() == 255


@pytest.mark.parametrize("name", DEEP)
def test_without_a_rule_16_bits_are_16_bits_and_fewer_are_told(tmp_path, name):
    bands, write = DEEP[name]
    write(ramp(16, bands), tmp_path / name)
    found = np.asarray(read_image(tmp_path / name, PLAIN, NO_LIMIT), int)
    assert np.abs(found - eight_bits(ramp(16, bands), 0, 65535)).max() <= 1
    write(ramp(12, bands), tmp_path / name)
    with pytest.raises(UnusableImage, match="uses 12 of its 16 bits, and would be black; give --intensity 0:4095, "):
        read_image(tmp_path / name, PLAIN, NO_LIMIT)


def test_transparent_grey_of_16_bits_is_its_upper_8(tmp_path):
    write_png16(ramp(16, 2), tmp_path / "image.png")
    found = np.asarray(read_image(tmp_path / "image.png", PLAIN, NO_LIMIT))
    np.testing.assert_array_equal(found[:, :, 0], ramp(16, 2)[:, :, 0] >> 8)


MEDICAL = {
    "signed.tif": np.linspace(-1024, 3071, 2400).reshape(40, 60).astype(np.int32),
    "float.tif": np.linspace(-1, 2.5, 2400).reshape(40, 60).astype(np.float32),
    "deep.tif": np.linspace(0, 1 << 20, 2400).reshape(40, 60).astype(np.int32),
}


@pytest.mark.parametrize("name", MEDICAL)
def test_signed_and_floating_point_values_need_a_rule_and_say_which(tmp_path, name):
    values = MEDICAL[name]
    Image.fromarray(values).save(tmp_path / name)
    least, most = values.min(), values.max()
    with pytest.raises(UnusableImage, match=f"has values from {least:g} to .*; give --intensity LOW:HIGH, such as "):
        read_image(tmp_path / name, PLAIN, NO_LIMIT)
    rule = Intensity(float(least) / 2, float(most))
    found = np.asarray(read_image(tmp_path / name, PLAIN, NO_LIMIT, intensity=rule), int)
    assert np.abs(found - eight_bits(values, *rule)).max() <= 1


def test_values_that_are_no_numbers_are_unusable(tmp_path):
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(UnusableImage, match="not finite"):
        read_image(tmp_path / "nan.tif", PLAIN, NO_LIMIT, intensity=Intensity(0, 1))


@pytest.mark.parametrize("most", [200, 255, 256, 1023, 1024, 3000, 4095, 4096, 16383, 16384, 65535])
def test_the_bits_of_a_sensor_are_those_that_are_used_rounded_up(most):
    expected = next(white for white in (255, 1023, 4095, 16383, 65535) if most <= white)
    assert bits_used([Range(0, 3, False), Range(0, most, False)]) == Intensity(0, expected)


def test_no_rule_is_guessed_for_other_values_or_for_none():
    assert bits_used([]) is None
    assert bits_used([Range(0, 9, False), Range(-1, 9, False)]) is None
    assert bits_used([Range(0, 1, True)]) is None
    assert bits_used([Range(0, 1 << 17, False)]) is None


def test_some_are_evenly_spread():
    assert some_of(0) == []
    assert some_of(5) == [0, 1, 2, 3, 4]
    assert some_of(64_000) == list(range(0, 64_000, 1000))


@pytest.mark.parametrize("text", ["", "1", "1:1", "2:1", "a:b", "0:inf", "nan:1", "0:1:2", ":"])
def test_a_rule_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="is not LOW:HIGH; give the values that are black and white, such as 0:4095"):
        parse_intensity(text)


# -- as it is used -----------------------------------------------------------------------------------


@pytest.fixture
def deep_folder(tmp_path):
    """The tinted images of 8 bits as colours of 12, in containers of 16."""
    data = tmp_path / "data"
    for split, per_class, seed in (("train", 12, 0), ("val", 6, 1)):
        write_images(data / split, per_class, seed)
        for file in sorted(data.glob(f"{split}/*/*.png")):
            write_png16(np.asarray(Image.open(file)).astype(np.uint16) * 16 + 3, file)
    return data


OPTIONS = ("--threads", 1, "--memory-budget", "4GiB")


def test_training_finds_the_rule_and_the_adapter_remembers_it(small_artifact, deep_folder, tmp_path):
    run = tmp_path / "run"
    done = run_command("train", small_artifact, "--data", deep_folder, "--output", run, "--epochs", 3, *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert "in images of more than 8 bits, 0 is black and 4095 white" in done.stderr
    assert intensity_of(run / "best.safetensors") == Intensity(0, 4095)
    judged = run_here(
        "eval", small_artifact, "--adapter", run / "best.safetensors", "--data", deep_folder, *OPTIONS, "--json"
    )
    assert judged.json["skipped"] == {}
    assert judged.json["accuracy"] > 0.9
    one = deep_folder / "val" / "red" / "000.png"
    told = run_here("predict", small_artifact, "--adapter", run / "best.safetensors", one, *OPTIONS, "--json")
    assert told.json["results"][0]["predictions"][0]["label"] == "red"
    trainer = Trainer(small_artifact, threads=1)
    trainer.load(run / "best.safetensors")
    assert trainer.intensity == Intensity(0, 4095)
    assert trainer.predict(one)[0].label == "red"


def test_learning_finds_it_and_the_knowledge_file_remembers_it(small_artifact, deep_folder, tmp_path):
    output = tmp_path / "K.safetensors"
    done = run_here("learn", small_artifact, "--data", deep_folder, "--output", output, *OPTIONS, "--json")
    assert done.json["val_accuracy"] > 0.9
    assert intensity_of(output) == Intensity(0, 4095)
    judged = run_here("eval", small_artifact, "--adapter", output, "--data", deep_folder, *OPTIONS, "--json")
    assert judged.json["accuracy"] == done.json["val_accuracy"]
    other = run_here("learn", output, "--data", deep_folder, "--intensity", "0:1023", *OPTIONS)
    assert_refused(other, 2, "has 0:4095 as black and white, not 0:1023; leave intensity out")


def test_a_program_that_gives_files_has_it_found_too(small_artifact, deep_folder):
    images = [(path, path.parent.name) for path in sorted((deep_folder / "train").glob("*/*.png"))]
    learner = Learner(small_artifact, threads=1)
    assert learner.learn(images).new == len(images)
    assert learner.intensity == Intensity(0, 4095)
    trainer = Trainer(small_artifact, threads=1, classes=["blue", "green", "red"], batch_size=4)
    trainer.fit(images, steps=2)
    assert trainer.intensity == Intensity(0, 4095)


def test_a_run_goes_on_with_the_rule_that_it_began_with(small_artifact, deep_folder, tmp_path):
    arguments = ("train", small_artifact, "--data", deep_folder, "--output", tmp_path / "run", "--epochs", 1, *OPTIONS)
    assert run_here(*arguments, "--intensity", "0:8191").returncode == 0
    assert_refused(run_here(*arguments, "--resume"), 2, "intensity 0:8191 instead of 0:4095")


def test_what_a_deep_image_takes_is_counted(tmp_path):
    """Colours of 16 bits: the image of their lower bytes, and their 8 bits twice."""
    write_png16(ramp(12, 3), tmp_path / "deep.png")
    Image.fromarray(eight_bits(ramp(12, 3), 0, 4095)).save(tmp_path / "plain.png")
    deep, plain = (Image.open(tmp_path / f"{name}.png") for name in ("deep", "plain"))
    counted, usual = (decode_bytes(image, image.size, PLAIN) for image in (deep, plain))
    assert counted == usual + 3 * 4 * 40 * 60
    with pytest.raises(UnusableImage, match="that the budget leaves"):
        read_image(tmp_path / "deep.png", PLAIN, counted - 1)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_arrays_of_a_program_may_be_deep(small_artifact, dtype):
    """Grey or in colour; within 1 of 255 of the same picture in 8 bits, before it is resized."""
    trainer = Trainer(small_artifact, threads=1, intensity="0:4095", classes=["a", "b", "c"])
    for bands in (0, 3):
        deep, plain = ramp(12, bands).astype(dtype), eight_bits(ramp(12, bands), 0, 4095)
        found, expected = (trainer._reader.pixels(image).astype(int) for image in (deep, plain))
        assert np.abs(found - expected).max() <= 1


def test_arrays_without_a_rule_are_refused_in_words(small_artifact):
    trainer = Trainer(small_artifact, threads=1)
    with pytest.raises(
        UserError, match="an image of float32 has values from 0 to 1; give --intensity LOW:HIGH, such as 0:1"
    ):
        trainer.predict(np.linspace(0, 1, 1600, dtype=np.float32).reshape(40, 40))
    with pytest.raises(UserError, match="an image of uint16 uses 12 of its 16 bits"):
        trainer.predict(ramp(12))
    with pytest.raises(UserError, match=r"an image is complex64 \(40, 60\); give uint8"):
        trainer.predict(ramp(12).astype(np.complex64))
