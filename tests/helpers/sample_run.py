"""The folder of a run that never was: what `train` leaves, with all that may happen to a run, written in no time."""

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image

from edge_s2a.sizes import MIB

FLOWERS = ["daisy", "dandelion", "rose", "sunflower", "tulip"]
STEPS, EPOCHS = 240, 12
PARTS = {
    "interpreter and libraries": 61.9, "graphs and adapter": 14.0, "optimizer": 0.7, "reserve": 5.0, "weights": 5.5,
    "saved tensors": 39.3, "workspace": 49.0, "data": 14.9,
}  # fmt: skip


def sample_facts(folder: Path, classes: list[str]) -> dict:
    parts = {name: int(size * MIB) for name, size in PARTS.items()}
    return {
        "started": "2026-03-14T09:26:53+00:00",
        "settings": {
            "artifact": "deit.s2a", "data": "flowers", "output": str(folder), "memory_budget_bytes": 192 * MIB,
            "threads": 2, "val_data": None, "epochs": EPOCHS, "batch_size": 16, "lr": 3e-3, "optimizer": "adamw",
            "clip_norm": None, "resume": False, "max_temperature_c": 80.0,
        },
        "artifact": {
            "model": "deit_tiny_patch16_224", "model_kwargs": {}, "adapter": "bias+lowrank", "saved_bits": "4",
            "trainable_parameters": 44_549, "total_parameters": 5_526_346, "file_bytes": 6_812_345,
        },
        "data": {
            "train": {"where": str(folder.parent / "flowers" / "train"), "images": 320},
            "val": {"where": str(folder.parent / "flowers" / "val"), "images": 60},
        },
        "classes": classes,
        "plan": {
            "budget_bytes": 192 * MIB, "batch_size": 16, "micro_batch_size": 16,
            "predicted_peak_bytes": sum(parts.values()), "minimum_budget_bytes": 93 * MIB, "streams_weights": False,
            "parts": parts, "arena_bytes": 90 * MIB,
        },
        "providers": ["CPUExecutionProvider"],
        "machine": {"architecture": "aarch64", "system": "Linux 5.15", "cores": 4, "memory_bytes": 4 << 30},
        "versions": {"edge-s2a": "0.1.0", "onnxruntime": "1.22.1", "python": "3.11.7", "numpy": "2.0.0"},
        "steps": STEPS,
        "resumed_at_step": 0,
    }  # fmt: skip


def sample_metrics(steps: int) -> list[dict]:
    """Of a run that learns, warms up, loses a step, goes back once and rests when it is hot."""
    rng, lines, per_epoch = np.random.default_rng(0), [], STEPS // EPOCHS
    for step in range(1, steps + 1):
        epoch, learned = 1 + (step - 1) // per_epoch, 1 - math.exp(-step / 70)
        warm = min(1.0, step / per_epoch)
        temperature = 46 + 37 * (1 - math.exp(-step / 60)) + rng.normal(0, 0.4)
        lines.append({
            "kind": "step", "epoch": epoch, "step": step, "loss": round(1.7 - 1.1 * learned + rng.normal(0, 0.07), 6),
            "gradient_norm": 1.0, "accuracy": min(1.0, round((4 + int(11 * learned + rng.integers(0, 3))) / 16, 4)),
            "lr": 3e-3 * warm * 0.5 * (1 + math.cos(math.pi * step / STEPS)),
            "images_per_s": round(11.5 - 2 * (temperature > 80) + rng.normal(0, 0.25), 2),
            "rss_bytes": int((166 + 14 * (1 - math.exp(-step / 5)) + rng.normal(0, 0.2)) * MIB),
            "seconds": 1.42, "temperature_c": round(temperature, 1),
        })  # fmt: skip
        if temperature > 80 and step % 3:
            lines.append({
                "kind": "rest", "epoch": epoch, "step": step, "seconds": 2.1, "temperature_c": round(temperature, 1),
                "is_power_short": False,
            })  # fmt: skip
        if step in (57, 58, 59):
            lines.append({"kind": "skipped", "epoch": epoch, "step": step, "reason": "not finite"})
        if step == 59:
            lines.append({
                "kind": "restored", "epoch": epoch, "step": step, "rate_share": 0.5,
                "reason": "loss or gradient were not finite 3 steps in a row",
            })  # fmt: skip
        if step == 140:
            lines.append({
                "kind": "pressure", "step": step, "attainable_bytes": 171 * MIB, "rss_bytes": 180 * MIB,
                "budget_bytes": 154 * MIB,
            })  # fmt: skip
        if step % per_epoch == 0:
            lines.append({
                "kind": "epoch", "epoch": epoch, "train_loss": 1.7 - 1.1 * learned,
                "train_accuracy": 0.25 + 0.73 * learned, "val_loss": 1.72 - 0.98 * learned,
                "val_accuracy": 0.24 + 0.62 * learned, "skipped_images": 1, "peak_rss_bytes": int(180.6 * MIB),
            })  # fmt: skip
    return lines


def sample_predictions(classes: list[str], images: Path | None) -> list[dict]:
    """Of 12 images per class, one in six wrong; the files of `images` are written too, where a folder is given."""
    rng, lines = np.random.default_rng(1), []
    for number, label in enumerate(classes):
        for place in range(12):
            predicted = classes[(number + 1 + place % 2) % len(classes)] if place % 6 == 0 else label
            name = f"{number}/{place:03d}.png"
            lines.append({
                "image": name, "label": label, "predicted": predicted, "probability": round(0.5 + rng.random() / 2, 6),
            })  # fmt: skip
            if images:
                (images / str(number)).mkdir(parents=True, exist_ok=True)
                _picture(rng).save(images / name)
    return lines


def _picture(rng: np.random.Generator) -> Image.Image:
    coarse = rng.integers(40, 230, (4, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((150, 120), Image.Resampling.BICUBIC)


def write_lines(path: Path, lines: list[dict]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_sample(
    folder: Path, *, classes: list[str] = FLOWERS, steps: int = STEPS, is_finished: bool = True, has_images: bool = True
) -> Path:
    folder.mkdir(parents=True)
    facts = sample_facts(folder, classes)
    (folder / "run.json").write_text(json.dumps(facts))
    write_lines(folder / "metrics.jsonl", sample_metrics(steps))
    images = Path(facts["data"]["val"]["where"]) if has_images else None
    write_lines(folder / "predictions.jsonl", sample_predictions(classes, images))
    if is_finished:
        summary = {
            "steps": steps, "epochs": EPOCHS, "seconds": 500.2, "peak_rss_bytes": int(180.6 * MIB),
            "predicted_peak_bytes": facts["plan"]["predicted_peak_bytes"], "budget_bytes": 192 * MIB,
            "classes": classes, "skipped_images": 1, "skipped": {"flowers/train/rose/broken.jpg": "cannot be read"},
        }  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder
