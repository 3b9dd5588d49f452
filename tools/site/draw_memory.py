"""Draws the peak memory of one training step, edge-s2a beside torch, PEFT and onnxruntime-training, from the records
that bench_memory left.

    python -m tools.site.draw_memory --output docs/figures/memory_bars.svg
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tools.records import PROJECT, read_records
from tools.site.draw_figures import GREY, MIB, ORANGE, in_our_style, new_figure

MODELS = {"vit_base_patch16_224": "ViT-B/16", "deit_tiny_patch16_224": "DeiT-Tiny", "mobilenetv2_100": "MobileNetV2"}
METHODS = {
    "torch:full": "torch, full fine-tuning",
    "peft:lora": "PEFT, LoRA",
    "torch:bias": "torch, biases",
    "onnxruntime:bias": "onnxruntime-training, biases",
    "bias:4:int8:whole": "edge-s2a, biases, whole batch",
    "bias:4:int8:least": "edge-s2a, biases, smallest budget",
}


def draw(records: list[dict]) -> Figure:
    """A group of bars for each model: peak resident memory of the whole process, batch 8, 224 px; the
    pale part is that of a process which only imports the libraries."""
    found = {(record["model"], record["method"]): record for record in records}
    figure = new_figure(9.0, 3.2)
    places = np.arange(len(METHODS))[::-1]
    colours = [ORANGE if method.startswith("bias") else GREY for method in METHODS]
    for axes, (model, title) in zip(figure.subplots(1, len(MODELS), sharey=True), MODELS.items(), strict=True):
        rows = [found[model, method] for method in METHODS]
        values, idle = ([row[key] / MIB for row in rows] for key in ("peak_bytes", "idle_bytes"))
        axes.barh(places, values, color=colours)
        axes.barh(places, idle, color="white", alpha=0.45)
        for place, value in zip(places, values, strict=True):
            axes.annotate(f"{value:.0f}", (value, place), xytext=(3, 0), textcoords="offset points", va="center")
        axes.set_title(title)
        axes.set_xlim(0, 1.3 * max(values))
        axes.set_yticks(places, METHODS.values())
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("MiB")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=PROJECT / "docs" / "studies" / "memory.jsonl")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    in_our_style(lambda: draw(read_records(options.results)), options.output)


if __name__ == "__main__":
    main()
