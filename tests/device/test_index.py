"""The index of a data set takes some bytes of each image, in any order of any tree of folders."""

import os
import random
import string
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.data.arrays import open_arrays
from edge_s2a.device.data.dataset import open_dataset
from edge_s2a.device.data.decoding import UnusableImage
from edge_s2a.device.data.paths import NAMES_PER_RUN, Paths, files_below, in_order
from edge_s2a.device.data.pixels import load_pixels
from edge_s2a.device.data.split import divided, stratified
from edge_s2a.errors import UserError
from tests.helpers.images import samples_of, write_images
from tests.helpers.paths import PROJECT

MIB = 1 << 20
PLAIN = Preprocessing((32, 32), (36, 36), "center", "bicubic", (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("count", [0, 1, NAMES_PER_RUN, 3 * NAMES_PER_RUN + 7])
def test_names_are_sorted_in_runs(count):
    rng = random.Random(0)
    names = ["".join(rng.choices("ab./é€" + string.digits, k=rng.randint(1, 9))).encode() for _ in range(count)]
    assert list(in_order(names)) == sorted(names)


def test_a_buffer_gives_back_each_path():
    paths = Paths()
    names = [b"a/1.png", b"", "é.jpg".encode(), b"not\xffutf8.png"]
    places = [paths.append(name) for name in names]
    assert [os.fsencode(paths[place]) for place in places] == names


def test_files_come_in_the_order_of_their_paths(tmp_path):
    """Of paths as text: a folder "a.d" comes between the files "a.c" and "a.e"."""
    names = ["a.c/x.png", "a.png", "a/b/c.png", "a/b.png", "a!.png", "a/z.png", "b.d/e/f.png", "b.d.png", "ä/ö.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    unused = Counter()
    assert [path.decode() for path in files_below(tmp_path, {".png"}, unused)] == sorted(names)
    assert not unused


INDEX = """
import sys
from pathlib import Path
from edge_s2a.device.data.dataset import open_dataset
from edge_s2a.system.memory import make_allocator_predictable, peak_resident_bytes, resident_bytes
make_allocator_predictable()
before = resident_bytes()
dataset = open_dataset(Path(sys.argv[1]), "train", None, None)
print(len(dataset), resident_bytes() - before, peak_resident_bytes() - before)
"""


def index_in_a_process(data: Path) -> list[int]:
    """[images, bytes, most bytes while it was made]"""
    command = [sys.executable, "-c", INDEX, str(data)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=True)
    return [int(word) for word in done.stdout.split()]


def test_an_index_takes_some_bytes_an_image(tmp_path):
    """Of 60,000 files: 48 bytes of each, what `plan` counts, and 3 MiB for the heap."""
    images = write_images(tmp_path / "few", 1, seed=0)
    for label in ("blue", "green", "red"):
        (tmp_path / "many" / label).mkdir(parents=True)
        for number in range(20_000):
            os.link(images / label / "000.png", tmp_path / "many" / label / f"IMG_{number:08d}.png")
    count, now, most = index_in_a_process(tmp_path / "many")
    assert count == 60_000
    assert now <= 48 * count + 3 * MIB
    assert most <= 80 * count + 4 * MIB


def test_images_of_a_npz_do_not_stay_in_memory(tmp_path):
    """Pages of a mapped file would count, once they were read."""
    images = np.random.default_rng(0).integers(0, 256, (4000, 64, 64, 3), np.uint8)  # 47 MiB
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(4000) % 5)
    program = INDEX + (
        "for index in range(len(dataset)): dataset.stored(index)\nprint(peak_resident_bytes() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "data.npz"], capture_output=True, text=True, cwd=PROJECT, check=True
    )
    assert int(done.stdout.split()[-1]) < 8 * MIB
    stored, _ = open_arrays(tmp_path / "data.npz")
    np.testing.assert_array_equal(stored[3999], images[3999])


def test_a_npz_that_is_cut_off_while_it_is_read_gives_unusable_images(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, labels=[0, 1, 1], images=np.full((3, 40, 40, 3), 7, np.uint8))
    dataset = open_dataset(path, "train", None, None)
    os.truncate(path, path.stat().st_size - 2000)
    assert (load_pixels(dataset, 0, PLAIN) == 7).all()
    with pytest.raises(UnusableImage, match="ends too early"):
        load_pixels(dataset, 2, PLAIN)


def test_a_npz_whose_header_promises_more_than_there_is_is_refused(tmp_path):
    whole = tmp_path / "data.npz"
    np.savez(whole, images=np.zeros((3, 40, 40, 3), np.uint8), labels=[0, 1, 1])
    content = whole.read_bytes()
    assert content.count(b"(3, 40, 40, 3)") == 1
    whole.write_bytes(content.replace(b"(3, 40, 40, 3)", b"(9, 40, 40, 3)"))
    with pytest.raises(UserError, match="ends too early"):
        open_dataset(whole, "train", None, None)


def test_numbers_as_names_keep_their_meaning_in_any_order(tmp_path):
    """A knowledge file has its classes sorted as text, in which 10 comes before 2."""
    np.savez(tmp_path / "data.npz", images=np.zeros((12, 8, 8, 3), np.uint8), labels=np.arange(12))
    names = sorted(map(str, range(12)))
    dataset = open_dataset(tmp_path / "data.npz", "val", names, 12)
    assert [dataset.classes[label] for label in dataset.labels] == [str(label) for label in range(12)]


def test_parts_have_the_images_of_the_whole(tmp_path):
    whole = open_dataset(write_images(tmp_path / "data", 8, seed=0), "train", None, None)
    rest, part = divided(whole, stratified(whole.labels, 0.25, 0))
    assert (len(rest), len(part)) == (18, 6)
    assert sorted(samples_of(rest) + samples_of(part)) == samples_of(whole)
    assert np.bincount(part.labels).tolist() == [2, 2, 2]


def test_renumbering_keeps_names(tmp_path):
    dataset = open_dataset(write_images(tmp_path / "data", 2, seed=0), "val", None, None)
    other = dataset.renumbered(["red", "white", "green", "blue"])
    assert [other.classes[label] for label in other.labels] == [dataset.classes[label] for label in dataset.labels]
