"""Folders of images as people have them: nested, with splits of other names, with files that are no images."""

import json
import os
import shutil

import pytest

from edge_s2a.device.data.dataset import has_split, open_dataset, split_folder, unused_files
from edge_s2a.errors import UserError
from tests.helpers.commands import assert_refused, run_command, run_here
from tests.helpers.images import samples_of, write_images
from tests.helpers.systems import not_on_windows


@pytest.fixture
def folder(tmp_path):
    """Three class folders of four images."""
    return write_images(tmp_path / "photos", 4, seed=0)


def names_of(dataset):
    return [(os.path.relpath(path, dataset.where), dataset.classes[label]) for path, label in samples_of(dataset)]


def test_images_below_a_class_are_of_that_class(folder):
    """As in torchvision's ImageFolder."""
    before = names_of(open_dataset(folder, "train", None, None))
    deep = folder / "red" / "2024" / "may"
    deep.mkdir(parents=True)
    moved = sorted((folder / "red").glob("*.png"))[0]
    moved.rename(deep / moved.name)
    found = names_of(open_dataset(folder, "train", None, None))
    assert len(found) == len(before) == 12
    assert (f"red/2024/may/{moved.name}", "red") in found
    assert found == sorted(found)


@not_on_windows
def test_a_link_to_a_folder_above_is_not_followed_for_ever(folder):
    (folder / "red" / "again").symlink_to(folder / "red")
    (folder / "red" / "all").symlink_to(folder)
    found = names_of(open_dataset(folder, "train", None, None))
    # `all` shows each class once more; `all/red` is where it came from.
    assert len([name for name, _ in found if name.startswith("red/") and name.count("/") == 1]) == 4
    assert len(found) == 12 + 8


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", "TEST", "testing", "dev"])
def test_folders_of_validation_images_have_many_names(folder, tmp_path, name):
    data = tmp_path / "data"
    shutil.copytree(folder, data / "Train")
    write_images(data / name, 2, seed=1)
    assert has_split(data, "train")
    assert has_split(data, "val")
    training, validation = (open_dataset(data, split, None, None) for split in ("train", "val"))
    assert (len(training), len(validation)) == (12, 6)
    assert training.classes == validation.classes == ["blue", "green", "red"]


def test_validation_comes_before_test(folder, tmp_path):
    data = tmp_path / "data"
    for number, name in enumerate(("test", "valid", "training"), 1):
        write_images(data / name, number, seed=number)
    assert split_folder(data, "val") == data / "valid"
    assert split_folder(data, "train") == data / "training"


def test_validation_images_beside_the_classes_are_no_class(folder):
    write_images(folder / "valid", 2, seed=1)
    training = open_dataset(folder, "train", None, None)
    assert (training.classes, len(training)) == (["blue", "green", "red"], 12)
    assert len(open_dataset(folder, "val", None, None)) == 6


def test_a_class_may_be_called_test(folder):
    (folder / "red").rename(folder / "test")
    dataset = open_dataset(folder, "train", None, None)
    assert (dataset.classes, len(dataset)) == (["blue", "green", "test"], 12)
    assert not has_split(folder, "val")


def test_what_is_not_used_is_counted_with_a_remedy(folder):
    for name in (
        "red/IMG_1.HEIC",
        "red/IMG_2.heic",
        "blue/notes.txt",
        "blue/deep/more.txt",
        "labels.csv",
        "green/none",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "red" / ".hidden.png").write_bytes(b"x")
    dataset = open_dataset(folder, "train", None, None)
    assert dataset.unused == {".heic": 2, ".txt": 2, ".csv": 1, "": 1}
    text = unused_files(dataset)
    assert text.startswith(f"files not used in {folder}: 2 .heic, 2 .txt, 1 without a suffix, 1 .csv; convert")
    assert unused_files(open_dataset(folder / ".." / "photos", "val", None, None)) != ""


def test_jfif_is_jpeg(folder):
    source = sorted((folder / "red").glob("*.png"))[0]
    from PIL import Image

    Image.open(source).convert("RGB").save(folder / "red" / "more.jfif", "JPEG")
    dataset = open_dataset(folder, "train", None, None)
    assert (len(dataset), unused_files(dataset)) == (13, "")


def test_a_class_with_nothing_but_other_files_is_named(folder):
    for image in (folder / "red").iterdir():
        image.rename(image.with_suffix(".heic"))
    with pytest.raises(UserError, match="red has no images"):
        open_dataset(folder, "train", None, None)


def test_commands_say_what_they_do_not_use(folder, small_artifact, tmp_path):
    (folder / "red" / "a.heic").write_bytes(b"x")
    write_images(folder / "Valid", 2, seed=1)
    knowledge = tmp_path / "K.safetensors"
    learned = run_here("learn", small_artifact, "--data", folder, "--output", knowledge, "--memory-budget", "4GiB")
    assert f"files not used in {folder}: 1 .heic" in learned.stderr
    assert "val accuracy       100.0 %" in learned.stdout
    judged = run_here("eval", small_artifact, "--adapter", knowledge, "--data", folder, "--memory-budget", "4GiB")
    assert judged.returncode == 0, judged.stderr


def test_training_accuracy_is_not_called_the_best(folder, small_artifact, tmp_path):
    done = run_command(
        "train", small_artifact, "--data", folder, "--output", tmp_path / "run", "--memory-budget", "300MiB",
        "--epochs", 1, "--json",
    )  # fmt: skip
    assert (done.json["val_accuracy"], done.json["best_accuracy"]) == (None, None)


# -- --val-split ---------------------------------------------------------------------------------------


def train(artifact, folder, run, *more):
    return run_command(
        "train", artifact, "--data", folder, "--output", run, "--memory-budget", "300MiB", "--epochs", 1, *more,
        "--json",
    )  # fmt: skip


def test_a_share_of_each_class_validates(folder, small_artifact, tmp_path):
    """The same images each time, recorded, and none of them trained on."""
    for name in ("first", "second"):
        done = train(small_artifact, folder, tmp_path / name, "--val-split", 0.25)
        assert done.returncode == 0, done.stderr
        assert done.json["best_accuracy"] is not None
    lines = [(tmp_path / name / "predictions.jsonl").read_text().splitlines() for name in ("first", "second")]
    images = [[json.loads(line)["image"] for line in part] for part in lines]
    assert images[0] == images[1]
    assert sorted(image.split("/")[0] for image in images[0]) == ["blue", "green", "red"]
    facts = json.loads((tmp_path / "first" / "run.json").read_text())
    assert (facts["data"]["train"]["images"], facts["data"]["val"]["images"]) == (9, 3)
    assert facts["settings"]["val_split"] == 0.25


def test_a_share_that_makes_no_sense_is_refused(folder, small_artifact, tmp_path):
    run = tmp_path / "run"
    assert_refused(train(small_artifact, folder, run, "--val-split", 0.1), 2, "give a larger share")
    assert_refused(
        train(small_artifact, folder, run, "--val-split", 0.5, "--start", "auto"), 2, "leave --val-split out"
    )
    write_images(folder / "valid", 2, seed=1)
    assert_refused(train(small_artifact, folder, run, "--val-split", 0.5), 2, "leave --val-split out")
    assert_refused(train(small_artifact, folder, run, "--val-split", "nan"), 2, "val-split")
