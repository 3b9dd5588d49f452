"""Tables of labelled images, and what is said of data that are neither a folder nor a table."""

import pytest

from edge_s2a.device.data.dataset import has_split, open_dataset
from edge_s2a.errors import UserError
from tests.helpers.commands import assert_refused, run_here
from tests.helpers.images import samples_of, write_images

OPTIONS = ("--threads", 1, "--memory-budget", "4GiB")


@pytest.fixture
def folder(tmp_path):
    """Three classes of four images, and no table yet."""
    return write_images(tmp_path / "photos", 4, seed=0)


def lines_of(folder, separator=","):
    return [f"{path.relative_to(folder)}{separator}{path.parent.name}" for path in sorted(folder.glob("*/*.png"))]


def table(folder, *lines, name="labels.csv", encoding="utf-8", end="\n"):
    path = folder / name
    path.write_bytes(end.join(lines).encode(encoding))
    return path


def named(dataset):
    return [(str(sample.source), dataset.classes[sample.label]) for sample in samples_of(dataset)]


HEADERS = {
    "comma": ("path,label", ",", {}),
    "semicolon": ("Filename;Class", ";", {}),
    "tab": ("image\tcategory", "\t", {"name": "labels.tsv"}),
    "with a BOM and line ends of Windows": ("path,label", ",", {"encoding": "utf-8-sig", "end": "\r\n"}),
    "without a header": (None, ",", {}),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_table_has_the_images_of_its_folder(folder, kind):
    header, separator, how = HEADERS[kind]
    lines = lines_of(folder, separator)
    path = table(folder, *([header] if header else []), *lines, "", **how)
    expected = open_dataset(folder, "train", None, None)
    found = open_dataset(path, "train", None, 3)
    assert found.classes == expected.classes
    assert named(found) == named(expected)


def test_columns_may_come_in_any_order_beside_others(folder):
    lines = [f"7,{line.split(',')[1]},x,{line.split(',')[0]}" for line in lines_of(folder)]
    path = table(folder, "id,label,note,file", *lines)
    assert named(open_dataset(path, "train", None, 3)) == named(open_dataset(folder, "train", None, 3))


def test_a_column_of_splits_is_heeded(folder):
    splits = ["Train", "training", "valid", "test"] * 3
    path = table(
        folder, "path,label,split", *(f"{line},{split}" for line, split in zip(lines_of(folder), splits, strict=True))
    )
    assert has_split(path, "val")
    assert (len(open_dataset(path, "train", None, 3)), len(open_dataset(path, "val", None, 3))) == (6, 6)
    assert not has_split(table(folder, "path,label", *lines_of(folder)), "val")


def test_labels_are_matched_with_the_classes_of_an_artifact(folder):
    path = table(folder, "path,label", *lines_of(folder))
    found = open_dataset(path, "val", ["red", "blue", "green"], 3)
    assert named(found) == named(open_dataset(folder, "val", ["red", "blue", "green"], 3))
    with pytest.raises(
        UserError, match=r"labels of .*labels.csv are blue, green, red; wanted are the classes that were"
    ):
        open_dataset(path, "val", ["cat", "dog", "owl"], 3)


def test_numbers_are_numbers_of_the_classes_where_these_have_names(folder):
    numbers = {"blue": "2", "green": "0", "red": "1"}
    lines = [f"{line.split(',')[0]},{numbers[line.split(',')[1]]}" for line in lines_of(folder)]
    found = open_dataset(table(folder, "path,label", *lines), "train", ["green", "red", "blue"], 3)
    assert named(found) == named(open_dataset(folder, "train", ["green", "red", "blue"], 3))


BAD = {
    "no columns": (["a,b", "red/000.png,red"], "begins with the columns a, b; wanted are path,label"),
    "no label": (["path,label", "red/000.png,red", "red/001.png,"], "line 3 of .*labels.csv has no path or no label"),
    "a short line": (["path,label", "red/000.png"], "line 2 of .*labels.csv has no path or no label"),
    "nothing": ([""], "begins with the columns of nothing"),
    "no rows": (["path,label"], "has no images of the split train"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_table_that_is_wrong_says_where(folder, kind):
    lines, message = BAD[kind]
    with pytest.raises(UserError, match=message):
        open_dataset(table(folder, *lines), "train", None, None)


def test_a_table_that_is_no_text_is_refused(folder):
    (folder / "labels.csv").write_bytes(b"path,label\n\xff\xfe,red\n")
    with pytest.raises(UserError, match=r"cannot read .*labels.csv.*; write a table in UTF-8"):
        open_dataset(folder / "labels.csv", "train", None, None)


def test_a_device_learns_trains_and_evaluates_with_a_table(small_artifact, folder, tmp_path):
    path = table(folder, "path,label", *lines_of(folder), "red/missing.png,red")
    learned = run_here(
        "learn", small_artifact, "--data", path, "--output", tmp_path / "K.safetensors", *OPTIONS, "--json"
    )
    assert learned.json["images"] == 12
    assert [reason.startswith("cannot be read") for reason in learned.json["skipped"].values()] == [True]
    judged = run_here(
        "eval", small_artifact, "--adapter", tmp_path / "K.safetensors", "--data", path, *OPTIONS, "--json"
    )
    assert judged.json["count"] == 12
    run = run_here(
        "train", small_artifact, "--data", path, "--output", tmp_path / "run", *OPTIONS, "--epochs", 1, "--json"
    )
    assert run.json["skipped_images"] == 1


WRONG = {
    "photos.zip": "is an archive; unpack it, for example with unzip, and give the folder",
    "photos.tar.gz": "is an archive; unpack it, for example with tar -xf, and give the folder",
    "photos.parquet": "is a file of another kind; give a folder with one folder of images per class, a CSV table with",
}


@pytest.mark.parametrize("name", [*WRONG, "nothing", "nothing.csv"])
def test_other_data_are_refused_by_what_they_are(small_artifact, tmp_path, name):
    if name in WRONG:
        (tmp_path / name).write_bytes(b"PK")
    refused = run_here("learn", small_artifact, "--data", tmp_path / name, "--output", tmp_path / "K", *OPTIONS)
    assert_refused(
        refused, 2, f"{tmp_path / name} {WRONG[name]}" if name in WRONG else "do not exist; give a folder with"
    )


def test_evaluation_says_what_it_found_and_what_is_wanted(small_artifact, folder, tmp_path):
    output = tmp_path / "K.safetensors"
    run_here("learn", small_artifact, "--data", folder, "--output", output, *OPTIONS)
    above = tmp_path / "above"
    (above / "photos of today").mkdir(parents=True)
    folder.rename(above / "photos of today" / "all")
    refused = run_here("eval", small_artifact, "--adapter", output, "--data", above, *OPTIONS)
    assert_refused(
        refused, 2, "are photos of today; wanted are the classes that were learned, blue, green, red, or a folder val"
    )
    assert "pack with" not in refused.stderr
