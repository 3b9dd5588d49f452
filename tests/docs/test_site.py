"""The documentation site is built from this tree, without a warning, and its pages load nothing from elsewhere."""

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from edge_s2a.cli.main import build_parser
from edge_s2a.cli.parser import commands_of
from tests.helpers.pages import ENVIRONMENT
from tests.helpers.paths import PROJECT

LOADED = re.compile(r'<(?:script|img|iframe)[^>]*\ssrc="([^"]+)"|<link[^>]*\srel="stylesheet"[^>]*\shref="([^"]+)"')


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=PROJECT, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


def test_the_reference_has_every_command_and_option(site):
    page = unescape((site / "reference" / "command-line.html").read_text(encoding="utf-8"))
    for command in commands_of(build_parser()):
        assert f'id="{command}"' in page
    assert "--memory-budget SIZE" in page
    assert "--feature-cache SIZE" in page


def test_the_reference_has_the_python_interface(site):
    page = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in ("pack", "Trainer", "Trainer.fit", "Trainer.predict", "train", "BudgetError"):
        assert re.search(rf'id="edge_s2a[\w.]*\.{re.escape(name)}"', page), name


def test_pages_load_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = [first or second for first, second in LOADED.findall(page.read_text(encoding="utf-8"))]
        assert not [address for address in loaded if re.match(r"(https?:)?//", address)], page


def test_links_that_leave_docs_lead_to_files():
    missing = set()
    for page in (PROJECT / "docs").rglob("*.md"):
        for link in re.findall(r"\]\(((?:\.\./)+[^()\s#]+)", page.read_text(encoding="utf-8")):
            target = (page.parent / link).resolve()
            if not target.exists():
                missing.add(target.relative_to(PROJECT).as_posix())
    assert not missing


def test_figures_are_part_of_the_page(site):
    page = (site / "explanation" / "method.html").read_text(encoding="utf-8")
    assert page.count("<svg") > 3
    assert 'role="img"' in page
    assert not re.search(r'<img[^>]*\.svg"', page)
