"""The page about a run: what it says, what it must not do, and which runs it is written of."""

import html
import json
import re
import subprocess
import sys

import pytest
from PIL import Image

from edge_s2a.report.write import write_report
from tests.helpers.commands import assert_refused, run_command
from tests.helpers.paths import PROJECT
from tests.helpers.sample_run import STEPS, write_sample
from tests.report.pages import HOSTILE, Reader

FIGURES = ["accuracy", "confusion", "learning_rate", "loss", "memory", "plan", "temperature", "throughput"]


def read_page(run, output=None):
    output = output or run / "report"
    write_report(run, output)
    return (output / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("sample") / "run")


@pytest.fixture(scope="module")
def page(sample):
    return read_page(sample)


@pytest.fixture(scope="module")
def real_run(small_artifact, image_folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("real") / "run"
    done = run_command(
        "train", small_artifact, "--data", image_folder, "--output", run, "--memory-budget", "300MiB", "--epochs", 2,
        "--threads", 1, "--lr", 1e-6,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return run


def test_the_report_of_a_real_run(real_run):
    done = run_command("report", real_run, "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["page"] == str(real_run / "report" / "index.html")
    summary = json.loads((real_run / "summary.json").read_text())
    text = Reader((real_run / "report" / "index.html").read_text()).text
    assert "vit_tiny_patch16_224" in text
    assert f"{100 * summary['val_accuracy']:.1f}" in text
    assert f"{summary['peak_rss_bytes'] / 2**20:.1f} MiB" in text
    assert "interpreter and libraries" in text
    for path in done.json["figures"]:
        with Image.open(path) as picture:
            assert min(picture.size) > 500
    assert {"loss", "plan", "confusion"} <= {
        path.rsplit("/", 1)[1].removesuffix(".png") for path in done.json["figures"]
    }
    assert "index.html" in run_command("report", real_run).stdout


def test_it_has_every_figure_in_two_themes_and_as_a_file(sample, page):
    themes = [attributes.get("class") for attributes in Reader(page).tags("svg")]
    assert themes == ["light-figure", "dark-figure"] * len(FIGURES)
    assert sorted(path.stem for path in (sample / "report").glob("*.png")) == FIGURES


def test_it_says_what_happened_and_with_which_settings(page):
    text = Reader(page).text
    for part in (
        "finished", "Back to the best adapter with 0.5 of the learning rate", "Memory has become scarce",
        "going on within 154.0 MiB", "Rested", "broken.jpg", "cannot be read", "bias+lowrank", "1.22.1", "aarch64",
        "2026-03-14 09:26 UTC", "saved tensors", "50 of 60 images right",
    ):  # fmt: skip
        assert part in text


def test_rests_in_a_row_are_one_event(page):
    assert 0 < Reader(page).text.count("Rested") < 40


def test_the_worst_images_are_in_the_page_with_what_they_were_taken_for(page):
    images = Reader(page).tags("img")
    assert len(images) == 10
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    assert all(image["alt"].endswith(".png") for image in images)


def test_images_that_are_gone_are_left_out_in_words(tmp_path):
    page = read_page(write_sample(tmp_path / "run", has_images=False))
    assert Reader(page).tags("img") == []
    assert "no longer where the run found them" in page


def test_the_page_reaches_nothing_outside(page):
    assert "://" not in page
    reader = Reader(page)
    assert not any(reader.tags(name) for name in ("script", "link", "iframe", "object", "base"))
    for _, attributes in reader.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("data:", "#"))
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_identifiers_of_figures_are_met_once(page):
    found = re.findall(r'\sid="([^"]*)"', page)
    assert len(found) == len(set(found))
    used = set(re.findall(r'href="#([^"]*)"', page)) | set(re.findall(r"url\(#([^)]*)\)", page))
    assert used <= set(found)


def test_names_are_text_whatever_they_hold(tmp_path):
    run = write_sample(tmp_path / "run", classes=HOSTILE)
    facts = json.loads((run / "run.json").read_text())
    facts["artifact"]["model"], facts["settings"][HOSTILE[0]] = HOSTILE[0], HOSTILE[1]
    (run / "run.json").write_text(json.dumps(facts))
    summary = json.loads((run / "summary.json").read_text())
    summary["skipped"] = {HOSTILE[1]: HOSTILE[0]}
    (run / "summary.json").write_text(json.dumps(summary))
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"kind": "restored", "step": 1, "reason": HOSTILE[1]}) + "\n")
    page = read_page(run)
    reader = Reader(page)
    assert not reader.tags("script")
    assert all("onerror" not in attributes for attributes in reader.tags("img"))
    assert html.escape(HOSTILE[0]) in page
    assert HOSTILE[1] in reader.text


def test_a_class_name_in_any_script_is_in_the_figure_itself(tmp_path):
    page = read_page(write_sample(tmp_path / "run", classes=["キク", "роза", "$5 & up"]))
    matrix = page[page.index("Confusion matrix") :]
    for name in ("キク", "роза", "$5 &amp; up"):
        assert name in matrix


def test_a_run_that_goes_on_is_told_as_far_as_it_came(tmp_path):
    run = write_sample(tmp_path / "run", steps=37, is_finished=False)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "epoch": 2, "st')
    assert f"not finished: 37 of {STEPS} steps" in Reader(read_page(run)).text


def test_a_run_without_a_step_has_a_page(tmp_path):
    run = write_sample(tmp_path / "run", steps=0, is_finished=False)
    (run / "predictions.jsonl").unlink()
    text = Reader(read_page(run)).text
    assert "No step has been recorded yet" in text
    assert "No validation has left its predictions yet" in text
    assert "saved tensors" in text  # the plan is there


def test_a_run_of_an_older_version_has_a_page(tmp_path):
    run = write_sample(tmp_path / "run")
    (run / "run.json").unlink()
    (run / "predictions.jsonl").unlink()
    text = Reader(read_page(run)).text
    assert "left no run.json" in text
    assert "190.3 MiB" in text


@pytest.mark.parametrize("value", [3, "text", [1], {"parts": 3, "budget_bytes": "a lot"}])
def test_values_of_another_type_are_left_out(tmp_path, value):
    run = write_sample(tmp_path / "run")
    names = ("settings", "artifact", "plan", "classes", "data", "steps", "started", "versions")
    (run / "run.json").write_text(json.dumps(dict.fromkeys(names, value)))
    assert "</html>" in read_page(run)


def test_of_many_classes_those_with_most_errors_are_shown(tmp_path):
    classes = [f"class {number}" for number in range(60)]
    page = read_page(write_sample(tmp_path / "run", classes=classes, has_images=False))
    assert "The 40 classes with most errors are shown" in page


def test_the_output_may_be_elsewhere_and_the_run_stays_as_it_was(tmp_path):
    run = write_sample(tmp_path / "run")
    before = sorted(run.rglob("*"))
    read_page(run, tmp_path / "elsewhere")
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("")])
def test_what_is_no_run_is_refused(tmp_path, make):
    make(tmp_path / "folder")
    assert_refused(run_command("report", tmp_path / "folder"), 2, tmp_path / "folder", "is not the folder of a run")


def test_a_damaged_summary_is_named(tmp_path):
    run = write_sample(tmp_path / "run")
    (run / "summary.json").write_text("{")
    assert_refused(run_command("report", run), 2, run / "summary.json")


WITHOUT_MATPLOTLIB = """
import sys
sys.modules["matplotlib"] = None
from edge_s2a.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_without_matplotlib_one_line_names_the_extra(sample):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MATPLOTLIB, "report", sample], capture_output=True, text=True, check=False,
        cwd=PROJECT,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'edge-s2a[report]'" in done.stderr
