"""What learning in one pass leaves, for those who look at it: its record, `watch`, and the page of `report`."""

import html
import json
import os
import random
import re
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_s2a import Learner
from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.knowledge import load_knowledge
from edge_s2a.device.data.dataset import open_dataset
from edge_s2a.errors import UserError
from edge_s2a.report.write import write_report
from edge_s2a.run.convert import to_json
from edge_s2a.run.knowledge import confusion_of, images_read, read_learning, read_recent
from edge_s2a.run.learning import learning_frame, open_learning
from edge_s2a.run.schema import RecentDrift
from edge_s2a.run.text import columns, rendered
from edge_s2a.run.writer import remove_recent, write_recent
from tests.field.fuzz import mutated_bytes, mutated_json
from tests.helpers.commands import assert_refused, run_here
from tests.helpers.images import samples_of
from tests.helpers.sample_knowledge import (
    CLASSES,
    CONFUSION,
    read_into,
    sample_recent,
    sample_record,
    write_knowledge,
)
from tests.report.pages import HOSTILE, Reader
from tests.report.terminal import on_a_terminal

BUDGET = ["--memory-budget", "4GiB"]  # of this process, which has loaded more than a command would


def text_of(path, width=80, height=24, now_s=None):
    view = open_learning(path)
    lines = learning_frame(view, width, height, time.time() if now_s is None else now_s)
    return "\n".join(rendered(line, False) for line in lines)


def beside(path, ending):
    return path.with_name(path.name + ending)


@pytest.fixture
def sample(tmp_path):
    """A knowledge file with its record, and what `predict` saw last."""
    path = write_knowledge(tmp_path / "K.safetensors", sample_record())
    beside(path, ".recent.json").write_text(json.dumps(sample_recent()))
    return path


# -- the record ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(small_artifact, image_folder, tmp_path_factory):
    """(knowledge file, what `learn --json` printed)."""
    path = tmp_path_factory.mktemp("learned") / "K.safetensors"
    done = run_here("learn", small_artifact, "--data", image_folder, "--output", path, *BUDGET, "--json")
    assert done.returncode == 0, done.stderr
    return path, done.json


def test_the_record_is_what_learn_prints_but_for_what_does_not_travel(learned):
    path, printed = learned
    record = to_json(read_learning(path))
    assert {**printed, **record} == {
        **printed,
        "seconds": record["seconds"],
        "peak_rss_bytes": record["peak_rss_bytes"],
    }
    assert set(printed) - set(record) == {"skipped", "output"}
    assert 0 < record["seconds"] <= printed["seconds"]
    assert 0 < record["peak_rss_bytes"] <= printed["peak_rss_bytes"]


def test_the_record_names_neither_files_nor_folders(learned, image_folder):
    path, _ = learned
    text = json.dumps(to_json(read_learning(path)))
    for part in ("/", ".png", path.name, image_folder.name):
        assert part not in text


def test_the_record_agrees_with_what_the_file_holds(learned, small_artifact):
    path, _ = learned
    record = read_learning(path)
    knowledge = load_knowledge(path, Artifact(small_artifact).manifest)
    head, state = knowledge.head, knowledge.state
    assert knowledge.record == to_json(record)
    assert record.classes == {"blue": 14, "green": 14, "red": 14}
    assert (record.images, record.kept_images, record.folded_images) == (42, len(state.kept.labels), 0)
    assert (record.form, record.ridge, record.temperature) == (head.kind, head.ridge, head.temperature)
    assert record.features == record.used_features == len(head.mean)
    assert record.left_out_accuracy == head.measured.accuracy
    assert record.calibration_error == head.measured.calibration_error
    assert record.confusion == head.measured.confusion
    assert np.sum(record.confusion) == 42
    assert sum(record.parts.values()) <= record.predicted_peak_bytes <= record.budget_bytes


def test_what_a_program_learned_says_what_it_knows(small_artifact, image_folder, tmp_path):
    """Some of it is folded, and nothing was validated."""
    dataset = open_dataset(image_folder, "train", None, None)
    images = [(np.asarray(Image.open(path)), dataset.classes[label]) for path, label in samples_of(dataset)]
    learner = Learner(small_artifact, memory_budget="4GiB", threads=1, storage=30 * learner_row_bytes(small_artifact))
    learner.learn(images)
    learner.save(tmp_path / "K.safetensors")
    record = read_learning(tmp_path / "K.safetensors")
    assert (record.images, record.kept_images, record.folded_images) == (42, 30, 12)
    assert record.form == "primal"
    assert (record.val_accuracy, record.seconds, record.new_images) == (None, None, None)
    assert record.peak_rss_bytes > 1 << 20
    assert record.started.endswith("+00:00")


def learner_row_bytes(artifact):
    return 2 * Artifact(artifact).manifest.tap_count  # float16


def test_of_a_damaged_record_what_is_sound_is_read(tmp_path):
    damaged = sample_record(images="53", left_out_accuracy=float("nan"), classes={"a": 1, "b": "2"}, parts=[1])
    record = read_learning(write_knowledge(tmp_path / "K", damaged))
    assert (record.images, record.left_out_accuracy) == (None, None)
    assert (record.classes, record.parts) == ({"a": 1}, {})
    assert record.model == "deit_tiny_patch16_224"


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "[" * 5000])
def test_a_record_that_is_none_leaves_everything_open(tmp_path, text):
    path = write_knowledge(tmp_path / "K", text)
    assert read_learning(path).images is None
    assert "not recorded" in text_of(path)


@pytest.mark.parametrize(
    "confusion",
    [[[1]], [[1, 2, 3, 4]] * 3, [[1, 2, 3]] * 4, [[1, 2, 3, -4]] * 4, [[1, 2, 3, "4"]] * 4, "no", [[[1]] * 4] * 4],
)
def test_confusions_that_fit_no_classes_are_left_out(tmp_path, confusion):
    assert confusion_of(read_learning(write_knowledge(tmp_path / "K", sample_record(confusion=confusion)))) == {}


def test_confusions_are_told_by_the_names_of_their_classes(sample):
    expected = {
        (label, other): CONFUSION[row][column]
        for row, label in enumerate(CLASSES)
        for column, other in enumerate(CLASSES)
        if CONFUSION[row][column]
    }
    assert confusion_of(read_learning(sample)) == expected


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32))
def test_hostile_files_are_refused_or_shown(tmp_path, seed):
    """Of the file, of its record, and of the files beside it."""
    rng = random.Random(seed)
    path = write_knowledge(tmp_path / "K", mutated_json(json.dumps(sample_record()).encode(), rng).decode())
    beside(path, ".recent.json").write_bytes(mutated_json(json.dumps(sample_recent()).encode(), rng))
    if rng.random() < 0.5:
        partial = read_into(path, 3)
        partial.write_bytes(mutated_bytes(partial.read_bytes(), rng))
    else:
        beside(path, ".partial").unlink(missing_ok=True)
        path.write_bytes(mutated_bytes(path.read_bytes(), rng))
    try:
        view = open_learning(path)
    except UserError:
        return
    json.dumps(view.plain(time.time()), allow_nan=False)
    lines = learning_frame(view, 60, 12, time.time())
    assert all(columns(rendered(line, False)) <= 60 for line in lines)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04" + bytes(100), b"\x02" + bytes(7) + b"[]", bytes(8) + b"{}"])
def test_other_files_are_refused(tmp_path, data):
    path = tmp_path / "K.safetensors"
    path.write_bytes(data)
    for command in ("watch", "report"):
        assert_refused(run_here(command, path), 2, path, "nor a knowledge file")


# -- images on their way into it -----------------------------------------------------------------------


def test_images_are_counted_as_they_are_read(tmp_path):
    path = tmp_path / "K.safetensors"
    assert images_read(beside(path, ".partial")) is None
    for images in (0, 1, 17):
        assert images_read(read_into(path, images)) == images
    partial = beside(path, ".partial")
    partial.write_bytes(partial.read_bytes()[:-3])  # the last one is being written
    assert images_read(partial) == 16


@given(data=st.binary(max_size=90))
def test_of_any_other_file_none_is_counted(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("partial") / "K.partial"
    path.write_bytes(data)
    assert images_read(path) is None


def test_before_there_is_a_knowledge_file_watch_counts_images(tmp_path):
    path = tmp_path / "K.safetensors"
    read_into(path, 17)
    text = text_of(path)
    assert "learning" in text
    assert "17 images" in text
    done = run_here("watch", path, "--json").json
    assert (done["state"], done["read_images"], done["learned"], done["recent"]) == ("learning", 17, None, None)


def test_what_is_known_is_shown_while_more_is_learned(sample):
    read_into(sample, 17)
    text = text_of(sample)
    assert "learning" in text
    assert "17 images" in text
    assert "53 of 4 classes" in text


def test_silence_is_said(sample):
    read_into(sample, 1)
    assert "no news for 1:0" in text_of(sample, now_s=time.time() + 3601)


# -- recent images -------------------------------------------------------------------------------------


def test_predict_leaves_what_it_saw_and_learning_anew_forgets_it(learned, small_artifact, image_folder, tmp_path):
    path = tmp_path / "K.safetensors"
    path.write_bytes(learned[0].read_bytes())
    images = sorted((image_folder / "val").rglob("*.png"))
    for some in (images, images[:2]):
        found = run_here("predict", small_artifact, *some, "--adapter", path, *BUDGET, "--json").json["drift"]
        recent = read_recent(path)
        assert recent.images == found["images"] == len(some)
        assert recent.statistic == pytest.approx(found["statistic"], rel=1e-5)  # written with 6 digits
        assert recent.threshold == pytest.approx(found["threshold"], rel=1e-5)
        assert recent.drifted == found["drifted"]
    assert run_here("learn", path, "--forget", "red", *BUDGET, "--json").returncode == 0
    assert read_recent(path) is None
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_where_it_cannot_be_left_nothing_is_wrong(learned, small_artifact, image_folder, tmp_path):
    path = tmp_path / "K.safetensors"
    path.write_bytes(learned[0].read_bytes())
    beside(path, ".recent.json").mkdir()  # root may write into a folder that is read-only, but not in place of one
    image = next((image_folder / "val").rglob("*.png"))
    done = run_here("predict", small_artifact, image, "--adapter", path, *BUDGET, "--json")
    assert done.returncode == 0, done.stderr
    assert read_recent(path) is None


def test_what_was_seen_last_is_written_with_these_keys(tmp_path):
    recent = RecentDrift(time="2026-03-15T08:00:00+00:00", images=8, statistic=0.123456789, threshold=2.0, drifted=True)
    write_recent(tmp_path / "K", recent)
    assert json.loads((tmp_path / "K.recent.json").read_text()) == {
        "time": "2026-03-15T08:00:00+00:00", "images": 8, "statistic": 0.123457, "threshold": 2.0, "drifted": True,
    }  # fmt: skip
    remove_recent(tmp_path / "K")
    remove_recent(tmp_path / "K")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": 1, "statistic": 1e400, "threshold": 1}', "[" * 5000])
def test_what_was_seen_last_is_left_out_where_it_is_damaged(sample, text):
    beside(sample, ".recent.json").write_text(text)
    assert read_recent(sample) is None
    assert "drift" not in text_of(sample)


# -- watch ---------------------------------------------------------------------------------------------


def test_a_frame_says_what_was_learned(sample):
    lines = text_of(sample).splitlines()
    assert lines[0] == "deit_tiny_patch16_224" + " " * 52 + "learned"
    assert lines[1:] == [
        str(sample)[:80] if len(str(sample)) <= 80 else str(sample)[:79] + "…",
        "",
        "images   53 of 4 classes  features of 43 kept, sums of 10",
        "classes  daisy 20, rose 20, tulip 12, weed 1",
        "accuracy left out 90.4 %  val 87.3 %  calibration error 2.7 %",
        "memory   ███████████████████████████████████░░░░░ 85.0 of 96.0 MiB  planned 86.4",
        "drift    unlike what was learned  0.37, usual up to 0.16  8 images",
    ]


def test_images_like_those_that_were_learned_are_no_drift(sample):
    beside(sample, ".recent.json").write_text(json.dumps(sample_recent(statistic=0.1, drifted=False)))
    assert "drift    as learned  0.1, usual up to 0.16" in text_of(sample)


def test_of_many_classes_the_first_are_shown(tmp_path):
    classes = {f"class {number:03d}": 2 for number in range(300)}
    path = write_knowledge(tmp_path / "K", sample_record(classes=classes, confusion=[]))
    text = text_of(path, width=400)
    assert "class 000 2, class 001 2" in text
    assert "class 299" not in text


def test_json_has_what_the_frame_shows(sample):
    values = run_here("watch", sample, "--json").json
    assert values == {
        "knowledge": str(sample), "state": "learned", "read_images": None, "learned": sample_record(),
        "recent": sample_recent(),
    }  # fmt: skip


@pytest.mark.parametrize("width", [24, 40, 80, 132])
def test_a_frame_fits_its_terminal(tmp_path, width):
    classes = {"日本語の花" * 9: 1, "b" * 300: 2}
    path = write_knowledge(tmp_path / "K", sample_record(model="日本語" * 40, classes=classes))
    read_into(path, 3)
    lines = learning_frame(open_learning(path), width, 5, time.time())
    assert len(lines) == 5
    assert all(columns(rendered(line, False)) <= width for line in lines)


def test_a_terminal_gets_nothing_to_obey_from_a_file(tmp_path):
    classes = {"\x1b[31mred": 1, "a\nb\x9bc": 2, "\ud800": 3}
    path = write_knowledge(tmp_path / "K", sample_record(model="\x1b]0;owned\x07\x1b[2J", classes=classes))
    text = text_of(path, width=120)
    assert all(character.isprintable() for character in text.replace("\n", ""))
    assert "red 1" in text


def test_once_and_without_a_terminal_there_is_one_frame(sample):
    read_into(sample, 2)
    for options in ([], ["--once"]):
        done = run_here("watch", sample, *options)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("deit_tiny_patch16_224") == 1


def test_watching_ends_when_it_is_learned(tmp_path):
    """As `learn` ends: the knowledge file takes its place, then what was kept on the way goes."""
    path = tmp_path / "K.safetensors"
    partial = read_into(path, 17)

    def end(process, keyboard):
        write_knowledge(tmp_path / "new", sample_record())
        os.replace(tmp_path / "new", path)
        partial.unlink()

    text, code = on_a_terminal(path, end)
    assert code == 0
    before, after = text.split("\x1b[?1049l")
    assert "17 images" in before
    assert "learned" in after
    assert "53 of 4 classes" in after


def test_what_is_not_there_is_refused(tmp_path):
    assert_refused(run_here("watch", tmp_path / "K.safetensors"), 2, tmp_path / "K.safetensors", "knowledge file")
    assert_refused(run_here("report", tmp_path / "K.safetensors"), 2, tmp_path / "K.safetensors")


# -- the page ------------------------------------------------------------------------------------------


def page_of(path):
    written = write_report(path, beside(path, ".report"))
    return (beside(path, ".report") / "index.html").read_text(encoding="utf-8"), written["figures"]


def cells(page, *titles):
    """Rows of the table with these titles in a page."""
    tables = re.findall(r"<table><thead><tr>(.*?)</tr></thead><tbody>(.*?)</tbody></table>", page)
    (body,) = [body for head, body in tables if texts(head, "th") == titles]
    return [texts(row, "td") for row in re.findall(r"<tr>(.*?)</tr>", body)]


def texts(row, tag):
    return tuple(html.unescape(text) for text in re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", row))


def test_the_page_of_what_was_really_learned(learned, small_artifact, image_folder):
    path, printed = learned
    images = sorted((image_folder / "val").rglob("*.png"))
    assert run_here("predict", small_artifact, *images, "--adapter", path, *BUDGET, "--json").returncode == 0
    done = run_here("report", path, "--json")
    assert done.returncode == 0, done.stderr
    folder = beside(path, ".report")
    assert done.json == {
        "page": str(folder / "index.html"), "figures": [str(folder / name) for name in ("confusion.png", "plan.png")],
    }  # fmt: skip
    text = Reader((folder / "index.html").read_text()).text
    for part in (
        "vit_tiny_patch16_224", "Left-out accuracy", f"{100 * printed['left_out_accuracy']:.1f} %",
        "Validation accuracy", "closed form", "42 of 42 images right", "The last images are",
    ):  # fmt: skip
        assert part in text
    for name in done.json["figures"]:
        with Image.open(name) as picture:
            assert min(picture.size) > 500


def test_the_page_says_how_good_it_is_and_what_it_took(sample):
    page, _ = page_of(sample)
    text = Reader(page).text
    for part in (
        "Left-out accuracy90.4 %", "cross-entropy 0.321", "Validation accuracy87.3 %", "Calibration error2.7 %",
        "Images53of 4 classes, 10 folded into sums", "Time3.4 s40 new images, 3 known before", "Peak memory85.0 MiB",
        "of 96.0 MiB, planned 86.4 MiB", "2026-03-14 09:26 UTC", "47 of 52 images right",
        "The last images are unlike those that were learned", "2026-03-15 08:00 UTC", "float16", "64.0 MiB", "0.0316",
    ):  # fmt: skip
        assert part in text, part
    assert '<div class="gauge"><span style="width: 88.5%">' in page


def test_every_class_is_told_with_its_images_and_left_out_accuracy(sample):
    page, _ = page_of(sample)
    assert cells(page, "class", "left-out accuracy", "images") == [
        ("daisy", "90.0 %", "20"), ("rose", "100.0 %", "20"), ("tulip", "75.0 %", "12"), ("weed", "–", "1"),
    ]  # fmt: skip
    assert cells(page, "true", "predicted", "images") == [
        ("daisy", "rose", "2"), ("tulip", "rose", "2"), ("tulip", "daisy", "1"),
    ]  # fmt: skip


def test_the_page_reaches_nothing_outside_and_has_its_figures_in_two_themes(sample):
    page, figures = page_of(sample)
    reader = Reader(page)
    assert "://" not in page
    assert not any(reader.tags(name) for name in ("script", "link", "iframe", "object", "base", "img"))
    assert "default-src 'none'" in page
    assert [attributes.get("class") for attributes in reader.tags("svg")] == ["light-figure", "dark-figure"] * 2
    assert [os.path.basename(figure) for figure in figures] == ["confusion.png", "plan.png"]


def test_names_are_text_whatever_they_hold(tmp_path):
    classes = dict.fromkeys(HOSTILE, 3)
    record = sample_record(model=HOSTILE[0], classes=classes, codes=HOSTILE[1], parts={HOSTILE[1]: 1 << 20})
    path = write_knowledge(tmp_path / "K", record)
    beside(path, ".recent.json").write_text(json.dumps(sample_recent(time=HOSTILE[0])))
    page, _ = page_of(path)
    reader = Reader(page)
    assert not reader.tags("script")
    assert not reader.tags("img")
    assert HOSTILE[1] in reader.text


DAMAGED = {
    "no record": "",
    "another type": json.dumps(dict.fromkeys(sample_record(), "text")),
    "negative": json.dumps({name: -1 for name, value in sample_record().items() if isinstance(value, int | float)}),
    "huge": json.dumps({name: 9e17 for name, value in sample_record().items() if isinstance(value, int | float)}),
    "a budget of nothing": json.dumps(sample_record(budget_bytes=0)),
    "parts below 0": json.dumps(sample_record(parts={"a": -5, "b": 3}, predicted_peak_bytes=None)),
    "many parts": json.dumps(sample_record(parts={str(number): 1 for number in range(5000)})),
    "confusions that do not fit": json.dumps(sample_record(confusion=[[1, 2]])),
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_has_a_page(tmp_path, text):
    page, _ = page_of(write_knowledge(tmp_path / "K", text))
    assert "</html>" in page


def test_of_what_could_not_be_left_out_the_page_says_why(tmp_path):
    nothing = {"left_out_accuracy": None, "left_out_loss": None, "calibration_error": None, "confusion": []}
    page, figures = page_of(write_knowledge(tmp_path / "K", sample_record(classes={"a": 5}, **nothing)))
    assert "two images each of two classes" in Reader(page).text
    assert "None has been predicted since this was learned" in Reader(page).text
    assert [os.path.basename(figure) for figure in figures] == ["plan.png"]
    many = {f"class {number}": 2 for number in range(101)}
    page, _ = page_of(write_knowledge(tmp_path / "K", sample_record(classes=many, confusion=[])))
    assert "recorded for up to 100 classes" in Reader(page).text


def test_tensorboard_is_for_runs(sample, tmp_path):
    done = run_here("report", sample, "--tensorboard", tmp_path / "events")
    assert_refused(done, 2, "--tensorboard", sample)
    assert not (tmp_path / "events").exists()
