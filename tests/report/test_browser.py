"""The page in a real browser: tools/test_browser.sh."""

import json
import os
from pathlib import Path

import pytest

from edge_s2a.report.write import write_report
from tests.helpers.sample_knowledge import CLASSES, sample_recent, sample_record, write_knowledge
from tests.helpers.sample_run import write_sample
from tests.report.browser import Browser

pytestmark = pytest.mark.browser

DESKTOP, TABLET, PHONE = 1280, 800, 390
LONG = "a name of a class without end " * 6
# Elements that are wider than the window, but for those inside of a box that scrolls.
WIDE = """
[...document.querySelectorAll("body *")]
    .filter(element => element.getBoundingClientRect().right > innerWidth + 1 && !element.closest(".scroll"))
    .map(element => element.outerHTML.slice(0, 120))
"""
SHOWN = """
[...document.querySelectorAll("figure svg")].filter(svg => getComputedStyle(svg).display != "none")
    .map(svg => svg.getAttribute("class"))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """{name: index.html} of runs that strain the layout in different ways, and of what was learned in one pass."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {
        "finished": write_sample(folder / "finished" / "run"),
        "unfinished": write_sample(folder / "unfinished" / "run", steps=37, is_finished=False, has_images=False),
        "long": write_sample(folder / "long" / "run", classes=["kurz", LONG, "x" * 200]),
        "many": write_sample(folder / "many" / "run", classes=[f"class {number}" for number in range(60)]),
    }
    found = {name: Path(write_report(run, run / "report")["page"]) for name, run in runs.items()}
    record = sample_record(classes=dict.fromkeys([LONG, *CLASSES][: len(CLASSES)], 20))
    knowledge = write_knowledge(folder / "K.safetensors", record)
    (folder / "K.safetensors.recent.json").write_text(json.dumps(sample_recent()))
    return {**found, "learned": Path(write_report(knowledge, folder / "K.report")["page"])}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, TABLET, PHONE])
@pytest.mark.parametrize("name", ["finished", "unfinished", "long", "many", "learned"])
def test_a_page_fits_its_window_and_the_browser_has_no_complaint(browser, pages, name, width, scheme):
    browser.complaints.clear()
    browser.open(pages[name], width, scheme)
    if folder := os.environ.get("SCREENSHOTS"):
        browser.screenshot(Path(folder) / f"{name}-{width}-{scheme}.png")
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate(WIDE) == []
    assert set(browser.evaluate(SHOWN)) == {f"{scheme}-figure"}
    assert browser.complaints == []


def test_text_is_read_easily_on_a_phone(browser, pages):
    """The smallest text of a figure there, in CSS pixels."""
    browser.open(pages["finished"], PHONE, "light")
    heights = browser.evaluate(
        '[...document.querySelectorAll("figure .light-figure text")].map(text => text.getBoundingClientRect().height)'
    )
    assert min(heights) >= 8


def test_a_large_matrix_scrolls_in_its_box(browser, pages):
    browser.open(pages["many"], PHONE, "light")
    assert browser.evaluate('document.querySelector(".wide .scroll").scrollWidth') >= 700


def test_the_page_asks_for_nothing(browser, pages):
    browser.open(pages["finished"], DESKTOP, "light")
    resources = browser.evaluate('performance.getEntriesByType("resource").map(entry => entry.name)')
    assert [name for name in resources if not name.startswith("data:")] == []
