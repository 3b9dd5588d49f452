"""The README: its Python runs, and its comparison and picture are what the records say."""

import re
import statistics

import pytest

from tests.docs.blocks import DOCS, Block
from tests.docs.test_shell_blocks import Interpreter
from tests.helpers.paths import PROJECT
from tools.records import read_records
from tools.site import draw_figures, draw_memory

README = (PROJECT / "README.md").read_text(encoding="utf-8")
MEMORY, SPEED = (read_records(DOCS / "studies" / name) for name in ("memory.jsonl", "speed.jsonl"))
ROWS = {  # of the comparison, with the method in the records
    "torch, full fine-tuning": "torch:full",
    "torch, biases": "torch:bias",
    "PEFT, LoRA of rank 8": "peft:lora",
    "onnxruntime-training 1.19.2, biases": "onnxruntime:bias",
    "**edge-s2a**, biases, whole batch at once": "bias:4:int8:whole",
    "**edge-s2a**, biases, smallest budget": "bias:4:int8:least",
}


def test_the_python_of_the_readme_runs(kitchen, environment):
    (source,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in source.splitlines() if line]) <= 8
    folder = kitchen(["artifact", "photos"])
    (folder / "demo.s2a").rename(folder / "model.s2a")
    interpreter = Interpreter(folder, environment)
    try:
        interpreter.run(Block("../README.md", 1, "python", source, {}))
    finally:
        interpreter.close()
    assert (folder / "adapter.safetensors").exists()


@pytest.mark.parametrize("row", ROWS)
def test_the_comparison_quotes_the_records(row):
    (cells,) = re.findall(rf"^\| {re.escape(row)} \|(.*)\|$", README, re.MULTILINE)
    _, memory, seconds = (cell.strip() for cell in cells.split("|"))
    is_of_row = {"model": "vit_base_patch16_224", "method": ROWS[row]}.items()
    (peak,) = [record["peak_bytes"] for record in MEMORY if record.items() >= is_of_row]
    assert memory == f"{peak / 2**20:.0f} MiB"
    if seconds != "not measured":
        rounds = [statistics.median(record["seconds"]) for record in SPEED if record.items() >= is_of_row]
        assert float(seconds.removesuffix(" s")) == pytest.approx(statistics.median(rounds), abs=0.006)


def test_the_picture_is_drawn_from_the_records(tmp_path):
    drawn = tmp_path / "memory_bars.svg"
    draw_figures.in_our_style(lambda: draw_memory.draw(MEMORY), drawn)
    texts = [
        re.findall(r"<text[^>]*>([^<]*)", path.read_text(encoding="utf-8"))
        for path in (drawn, DOCS / "figures" / drawn.name)
    ]
    assert texts[0] == texts[1]
    assert "3304" in texts[0]
