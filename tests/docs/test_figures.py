"""tools/site/draw_figures.py, and what the pages quote of it."""

import re
from pathlib import Path

import pytest
import torch

from tests.helpers.artifacts import pack
from tests.helpers.paths import PROJECT, SHARED
from tools.site import draw_figures

WEIGHTS, IMAGES = SHARED / "weights" / "deit_tiny_patch16_224.safetensors", SHARED / "data" / "flowers5" / "train"


def written(draw, path: Path) -> str:
    draw_figures.in_our_style(draw, path)
    text = path.read_text(encoding="utf-8")
    assert "currentColor" in text
    assert draw_figures.TEXT_COLOUR not in text
    return text


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"{WEIGHTS.name} is not in {SHARED}")
def test_the_page_quotes_the_errors_of_the_levels():
    page = (PROJECT / "docs" / "explanation" / "method.md").read_text(encoding="utf-8")
    quoted = re.search(r"block +uniform +fitted\n(.*?)```", page, re.DOTALL)[1]
    shown = [[float(word) for word in line.split()[1:]] for line in quoted.splitlines()]
    layers = [draw_figures.code(inputs) for inputs in draw_figures.gelu_inputs(WEIGHTS, IMAGES)]
    computed = [[layer.errors["uniform"], layer.errors["fitted"]] for layer in layers]
    for row, expected in zip(shown, computed, strict=True):
        assert row == pytest.approx(expected, abs=2e-4)


def test_the_figures_are_drawn_from_levels_lifetimes_and_plans(small_artifact, tmp_path):
    layer = draw_figures.code(torch.randn(5000, generator=torch.Generator().manual_seed(0)))
    assert layer.errors["fitted"] < layer.errors["uniform"] < 0.04
    exact = pack(tmp_path / "exact.s2a", saved_bits="32")
    first = written(lambda: draw_figures.draw_gelu(layer), tmp_path / "gelu.svg")
    assert first == written(lambda: draw_figures.draw_gelu(layer), tmp_path / "gelu.svg")
    crossing = written(
        lambda: draw_figures.draw_crossing({"32 bits": exact, "4 bits": small_artifact}), tmp_path / "crossing.svg"
    )
    assert "4 bits" in crossing
    plans = [draw_figures.planned(small_artifact, budget) for budget in ("160MiB", "1GiB")]
    budget = written(lambda: draw_figures.draw_budget(plans), tmp_path / "budget.svg")
    for part in plans[0]["parts"]:
        assert part in budget
