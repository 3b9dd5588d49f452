"""Reads what a run leaves."""

import json
from pathlib import Path


def metrics_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def step_losses(run: Path) -> list[float]:
    return [line["loss"] for line in metrics_of(run) if line["kind"] == "step"]
