"""Draws the figures of the documentation from what the program computes, as SVG that fits light and dark pages.

    python -m tools.site.draw_figures --weights ../shared/weights/deit_tiny_patch16_224.safetensors \\
        --images ../shared/data/flowers5/train --output docs/figures

All are of DeiT-Tiny with these weights:

gelu.svg      the derivative of GELU, and what 16 levels make of it, uniform and fitted, in the last block, on 16 of
              the images; prints the errors in all blocks
crossing.svg  what crosses from the forward to the backward pass, with 32 and with 4 bits: from the memory plans of two
              artifacts, which it packs
budget.svg    the parts of the predicted peak under several budgets, of the second artifact, by `edge-s2a plan --json`

Text and axes have the colour `currentColor`: the page's own where the figure is part of a page, and dark or light, as
the system prefers, where it is a file of its own.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from edge_s2a import pack
from edge_s2a.artifact.archive import PLAN, Artifact
from edge_s2a.codec.reference import Levels, decode_levels, encode_levels, uniform_levels
from edge_s2a.device.data.dataset import open_dataset
from edge_s2a.device.data.pixels import load_pixels
from edge_s2a.host.golden import normalized
from edge_s2a.host.scheme.allocate import sample
from edge_s2a.host.scheme.fit import fit_levels
from edge_s2a.host.sources.preprocessing import preprocessing_of
from edge_s2a.host.sources.timm import create_model
from edge_s2a.host.trace.operators import gelu
from edge_s2a.plan.lifetimes import Lifetime, from_json

BITS = 4
MODEL, CLASSES = "deit_tiny_patch16_224", 5
IMAGES = 16  # evenly spread over the classes
BUDGETS = ("96MiB", "112MiB", "128MiB", "160MiB", "192MiB", "256MiB")
MIB = 1 << 20
TEXT_COLOUR = "#012345"  # stands for currentColor until the figure is written
GREY, BLUE, ORANGE = "#8a8f98", "#3d85c6", "#e07b39"  # that are seen on white and on black
PART_COLOURS = {
    "interpreter and libraries": "#8a8f98",
    "graphs and adapter": "#b08968",
    "optimizer": "#c9a227",
    "reserve": "#5f6b7a",
    "weights": "#6a8fc8",
    "saved tensors": "#e07b39",
    "workspace": "#4aa58a",
    "data": "#a77bb8",
}
# In a file of its own.
COLOUR_ALONE = "<style>svg { color: #222 } @media (prefers-color-scheme: dark) { svg { color: #ddd } }</style>"


# -- the derivative of GELU and its codes --------------------------------------------------------------


class Coded(NamedTuple):
    """Inputs of one GELU, and the error that codes of its derivative make."""

    inputs: Tensor  # float32 (n,)
    levels: dict[str, Levels]  # "uniform" and "fitted"
    errors: dict[str, float]  # root mean square


def gelu_inputs(weights: Path, images: Path) -> list[Tensor]:
    """float32 (n,) of each block's GELU."""
    model = create_model(MODEL, {}, CLASSES, None, weights, False, 0)
    inputs: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, nn.GELU):
            module.register_forward_pre_hook(lambda _, arguments: inputs.append(sample(arguments[0])))
    data, preprocessing = open_dataset(images, "train", None, CLASSES), preprocessing_of(model, None)
    chosen = np.linspace(0, len(data) - 1, IMAGES).astype(int)
    with torch.no_grad():
        model(normalized(np.stack([load_pixels(data, index, preprocessing) for index in chosen]), preprocessing))
    return inputs


def code(inputs: Tensor) -> Coded:
    """Both kinds of levels, as the packager makes them."""
    derivative = gelu.derivative(inputs, "none")
    derivative_range = gelu.MARK.derivative_range
    levels = {
        "uniform": uniform_levels(*derivative_range, BITS),
        "fitted": fit_levels(derivative, derivative_range, BITS),
    }
    exact = derivative.numpy()
    errors = {name: float(np.sqrt(np.mean((coded(exact, kind) - exact) ** 2))) for name, kind in levels.items()}
    return Coded(inputs, levels, errors)


def coded(values: np.ndarray, levels: Levels) -> np.ndarray:
    """What the backward pass reads for float32 (n,)."""
    return decode_levels(encode_levels(values, BITS, levels), BITS, len(values), levels)


def table_of(layers: Sequence[Coded]) -> str:
    errors = [(layer.errors["uniform"], layer.errors["fitted"]) for layer in layers]
    rows = [f"{number:<6}{uniform:>9.4f}{fitted:>9.4f}" for number, (uniform, fitted) in enumerate(errors)]
    return "\n".join([f"{'block':<6}{'uniform':>9}{'fitted':>9}", *rows])


def draw_gelu(layer: Coded) -> Figure:
    figure = new_figure(7.2, 3.4)
    x = np.linspace(-4, 4, 4000, dtype=np.float32)
    exact = gelu.derivative(torch.from_numpy(x), "none").numpy()
    share, edges = np.histogram(layer.inputs.numpy(), bins=80, range=(-4, 4))
    axes = figure.subplots(1, 2, sharey=True)
    for ax, name, colour in zip(axes, ("uniform", "fitted"), (BLUE, ORANGE), strict=True):
        ax.stairs(0.45 * share / share.max() - 0.3, edges, baseline=-0.3, fill=True, color=GREY, alpha=0.35)
        ax.plot(x, coded(exact, layer.levels[name]), color=colour, linewidth=1.6)
        ax.plot(x, exact, color=TEXT_COLOUR, linewidth=0.8)
        ax.set_title(f"{2**BITS} {name} levels, error {layer.errors[name]:.4f}", fontsize=10)
        ax.set_xlabel("input of GELU")
        ax.set_ylim(-0.3, 1.25)
    axes[0].set_ylabel("derivative")
    return figure


# -- what crosses from forward to backward -------------------------------------------------------------


def draw_crossing(artifacts: dict[str, Path], batch: int = 1) -> Figure:
    """artifacts: by title. Each saved tensor is a bar, as long as it lives and as high as it is large."""
    plans = {title: training_lifetimes(path) for title, path in artifacts.items()}
    tops = [sum(life.size(batch) for life in saved_of(lifetimes)) for lifetimes in plans.values()]
    figure = new_figure(7.2, 3.4)
    for ax, (title, lifetimes) in zip(figure.subplots(1, len(plans), sharey=True), plans.items(), strict=True):
        last = max(life.last for life in lifetimes)
        saved, bottom, bars = saved_of(lifetimes), 0, []
        for life in saved:
            bars.append(Rectangle((life.first, bottom / MIB), life.last - life.first, life.size(batch) / MIB))
            bottom += life.size(batch)
        ax.add_collection(PatchCollection(bars, facecolor=ORANGE, edgecolor="none", alpha=0.85))
        ax.axvline(max(life.first for life in saved), color=GREY, linestyle=":", linewidth=1)
        ax.set_xlim(0, last)
        ax.set_ylim(0, 1.05 * max(tops) / MIB)
        ax.set_xticks([])
        ax.set_xlabel("forward, then backward")
        ax.set_title(f"{title}: {bottom / MIB:.1f} MiB", fontsize=10)
    figure.axes[0].set_ylabel("saved tensors of one image, MiB")
    return figure


def training_lifetimes(path: Path) -> list[Lifetime]:
    artifact = Artifact(path)
    return from_json(artifact.read(PLAN), str(path))["training"].lifetimes


def saved_of(lifetimes: Sequence[Lifetime]) -> list[Lifetime]:
    return [life for life in lifetimes if life.kind == "saved"]


# -- how a budget is divided ---------------------------------------------------------------------------


def planned(artifact: Path, budget: str) -> dict:
    """What `edge-s2a plan --json` says."""
    words = [sys.executable, "-m", "edge_s2a", "plan", artifact, "--memory-budget", budget, "--json"]
    done = subprocess.run([*map(str, words)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def draw_budget(plans: Sequence[dict]) -> Figure:
    figure = new_figure(7.2, 0.9 + 0.42 * len(plans))
    ax = figure.subplots()
    for row, plan in enumerate(plans):
        left = 0.0
        for part, colour in PART_COLOURS.items():
            width = plan["parts"][part] / MIB
            ax.barh(row, width, left=left, color=colour, height=0.62, label=None if row else part)
            left += width
        budget = plan["budget_bytes"] / MIB
        ax.plot([budget, budget], [row - 0.4, row + 0.4], color=TEXT_COLOUR, linewidth=1.4)
    names = [f"{p['budget_bytes'] // MIB} MiB: {p['micro_batch_size']} of {p['batch_size']}" for p in plans]
    ax.set_yticks(range(len(plans)), names)
    ax.invert_yaxis()
    ax.set_xlabel("MiB of the predicted peak; the mark is the budget")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8, labelcolor=TEXT_COLOUR)
    return figure


# -- SVG -----------------------------------------------------------------------------------------------


def new_figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def style_of(axes: Axes) -> None:
    axes.patch.set_alpha(0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def write(figure: Figure, path: Path) -> None:
    """The same figure gives the same bytes; names within it are its own, for several may be part of one page."""
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        style_of(axes)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue().replace(TEXT_COLOUR, "currentColor")
    start = svg.index(">", svg.index("<svg")) + 1
    path.write_text(f"{svg[:start]}\n {COLOUR_ALONE}{svg[start:]}", encoding="utf-8")


def in_our_style(draw: Callable[[], Figure], path: Path) -> None:
    colours = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    with mpl.rc_context({**dict.fromkeys(colours, TEXT_COLOUR), "font.size": 9, "font.family": "sans-serif"}):
        write(draw(), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("weights", "images", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    weights, output = options.weights, options.output
    output.mkdir(parents=True, exist_ok=True)

    layers = [code(inputs) for inputs in gelu_inputs(weights, options.images)]
    print(table_of(layers))
    in_our_style(lambda: draw_gelu(layers[-1]), output / "gelu.svg")

    with tempfile.TemporaryDirectory() as folder:
        exact, coded_ = Path(folder, "32.s2a"), Path(folder, "4.s2a")
        for path, bits in ((exact, 32), (coded_, BITS)):
            pack(MODEL, path, num_classes=CLASSES, weights=weights, adapter="bias+lowrank", saved_bits=bits)
        titles = {"32 bits": exact, f"{BITS} bits": coded_}
        in_our_style(lambda: draw_crossing(titles), output / "crossing.svg")
        plans = [planned(coded_, budget) for budget in BUDGETS]
    in_our_style(lambda: draw_budget(plans), output / "budget.svg")


if __name__ == "__main__":
    main()
