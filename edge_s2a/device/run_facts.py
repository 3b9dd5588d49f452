"""What a run says of itself when it starts: RUN/run.json, documented in docs/RUN.md."""

import dataclasses
import math
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import psutil

from edge_s2a.artifact.archive import Artifact
from edge_s2a.device.data.dataset import Dataset, printable
from edge_s2a.device.engine.base import Engine
from edge_s2a.device.runtime import Runtime
from edge_s2a.version import __version__


def run_facts(settings: Any, runtime: Runtime, train_data: Dataset, val_data: Dataset | None) -> dict:
    """settings: a dataclass. Plain values, as JSON has them."""
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": settings_facts(settings),
        "artifact": artifact_facts(runtime.artifact),
        "data": {"train": data_facts(train_data), "val": val_data and data_facts(val_data)},
        "classes": train_data.classes,
        "plan": dataclasses.asdict(runtime.plan),
        "providers": runtime.engine.providers,
        "machine": machine_facts(),
        "versions": version_facts(runtime.engine),
    }


def settings_facts(settings: Any) -> dict:
    """The fields of a dataclass as JSON has them: paths as text, and nothing for what is infinite."""
    return {name: _plain(value) for name, value in dataclasses.asdict(settings).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return printable(value)
    return None if isinstance(value, float) and math.isinf(value) else value


def artifact_facts(artifact: Artifact) -> dict:
    manifest = artifact.manifest
    return {
        "model": manifest.model,
        "model_kwargs": manifest.model_kwargs,
        "adapter": "+".join(manifest.adapter),
        "saved_bits": manifest.saved_bits,
        "mean_saved_bits": manifest.mean_saved_bits,
        "levels": manifest.levels,
        "weight_format": manifest.weight_format,
        "int8_layers": len(manifest.int8_layers),
        "image_size": list(manifest.preprocessing.image_size),
        "trainable_parameters": manifest.trainable_parameters,
        "total_parameters": manifest.total_parameters,
        "saved_bytes_per_image": manifest.saved_bytes_per_image,
        "file_bytes": artifact.file_bytes,
        "format_version": manifest.format_version,
        "model_digest": manifest.model_digest,
    }


def data_facts(dataset: Dataset) -> dict:
    """Where the images lie, absolute, for a report may be made from another folder; and how many there are."""
    return {"where": printable(dataset.where.absolute()), "images": len(dataset.samples)}


def machine_facts() -> dict:
    return {
        "architecture": os.uname().machine,
        "system": f"{os.uname().sysname} {os.uname().release}",
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def version_facts(engine: Engine) -> dict:
    return {
        "edge-s2a": __version__,
        engine.name: engine.version,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "psutil": psutil.__version__,
    }
