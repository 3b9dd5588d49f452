"""Knowledge files that nothing was learned for: their header, as `learn` writes it, and what lies beside them."""

import json
from pathlib import Path

import numpy as np

from edge_s2a.artifact import tensors
from edge_s2a.artifact.learned import DIGEST_BYTES
from edge_s2a.device.closed_form.journal import Journal
from edge_s2a.sizes import MIB
from tests.device.closed_form.images import layout_of

CLASSES = {"daisy": 20, "rose": 20, "tulip": 12, "weed": 1}
CONFUSION = [[18, 2, 0, 0], [0, 20, 0, 0], [1, 2, 9, 0], [0, 0, 0, 0]]
PARTS = {"interpreter and libraries": 61.9, "graphs and adapter": 9.0, "images": 0.1, "closed form": 12.4, "data": 3.0}


def sample_record(**changes) -> dict:
    parts = {name: int(size * MIB) for name, size in PARTS.items()}
    record = {
        "model": "deit_tiny_patch16_224", "started": "2026-03-14T09:26:53+00:00", "images": 53, "new_images": 40,
        "known_images": 3, "skipped_images": 1, "kept_images": 43, "folded_images": 10, "classes": CLASSES,
        "features": 2304, "used_features": 1536, "codes": "float16", "storage_bytes": 64 * MIB, "class_weights": "none",
        "form": "dual", "ridge": 0.0316, "temperature": 0.12, "left_out_accuracy": 0.904, "left_out_loss": 0.321,
        "calibration_error": 0.027, "confusion": CONFUSION, "val_accuracy": 0.873, "val_balanced_accuracy": 0.861,
        "val_loss": 0.412, "seconds": 3.42,
        "predicted_peak_bytes": sum(parts.values()), "peak_rss_bytes": 85 * MIB, "budget_bytes": 96 * MIB,
        "micro_batch_size": 4, "parts": parts,
    }  # fmt: skip
    return record | changes


def sample_recent(**changes) -> dict:
    recent = {"time": "2026-03-15T08:00:00+00:00", "images": 8, "statistic": 0.37, "threshold": 0.16, "drifted": True}
    return recent | changes


def write_knowledge(path: Path, record: object) -> Path:
    """Writes a knowledge file with a record and nothing that was learned. record: JSON, or the text of it."""
    text = record if isinstance(record, str) else json.dumps(record)
    with open(path, "wb") as file:
        tensors.write(file, {"head.bias": np.zeros(4, np.float32)}, {"format": "edge-s2a knowledge 1", "record": text})
    return path


def read_into(knowledge: Path, images: int) -> Path:
    """Writes K.partial with so many images."""
    layout = layout_of("int8")
    path = knowledge.with_name(knowledge.name + ".partial")
    journal = Journal(path, layout)
    for number in range(len(journal), images):
        journal.append(number.to_bytes(DIGEST_BYTES, "little"), np.zeros(layout.row_bytes, np.uint8))
    return path
