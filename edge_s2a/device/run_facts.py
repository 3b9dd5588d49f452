"""Collects what a run says of itself when it starts: the content of RUN/run.json."""

import dataclasses
import math
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import psutil

from edge_s2a.artifact.archive import Artifact
from edge_s2a.device.data.paths import printable
from edge_s2a.device.engine.base import Engine
from edge_s2a.device.images.protocol import Images
from edge_s2a.device.runtime import Runtime
from edge_s2a.run.schema import ArtifactFacts, DataFacts, MachineFacts, PlanFacts, RunFacts, SplitFacts
from edge_s2a.run.times import now_utc
from edge_s2a.version import __version__


def run_facts(
    settings: Mapping[str, Any],
    runtime: Runtime,
    classes: list[str],
    images: Images,
    validation: Images | None,
    *,
    steps: int,
    resumed_at_step: int,
) -> RunFacts:
    """settings: option -> value. steps: optimizer steps of the whole run. resumed_at_step: steps done when this process
    starts."""
    return RunFacts(
        started=now_utc(),
        settings={name: plain(value) for name, value in settings.items()},
        artifact=artifact_facts(runtime.artifact),
        data=DataFacts(train=split_facts(images), val=None if validation is None else split_facts(validation)),
        classes=classes,
        plan=PlanFacts(**dataclasses.asdict(runtime.plan)),
        providers=runtime.engine.providers,
        machine=machine_facts(),
        versions=version_facts(runtime.engine),
        steps=steps,
        resumed_at_step=resumed_at_step,
    )


def plain(value: Any) -> Any:
    """Returns an option's value as JSON has it: a path as text, None for infinity."""
    if isinstance(value, Path):
        return printable(value)
    return None if isinstance(value, float) and math.isinf(value) else value


def artifact_facts(artifact: Artifact) -> ArtifactFacts:
    manifest = artifact.manifest
    return ArtifactFacts(
        model=manifest.model,
        model_kwargs=manifest.model_kwargs,
        adapter="+".join(manifest.adapter),
        saved_bits=manifest.saved_bits,
        mean_saved_bits=manifest.mean_saved_bits,
        levels=manifest.levels,
        weight_format=manifest.weight_format,
        int8_layers=len(manifest.int8_layers),
        image_size=list(manifest.preprocessing.image_size),
        trainable_parameters=manifest.trainable_parameters,
        total_parameters=manifest.total_parameters,
        saved_bytes_per_image=manifest.saved_bytes_per_image,
        file_bytes=artifact.file_bytes,
        format_version=manifest.format_version,
        model_digest=manifest.model_digest,
    )


def split_facts(images: Images) -> SplitFacts:
    # Absolute, because a report may be made from another folder.
    where = None if images.where is None else printable(images.where.absolute())
    return SplitFacts(where=where, images=images.count)


def machine_facts() -> MachineFacts:
    return MachineFacts(
        architecture=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        cores=os.cpu_count(),
        memory_bytes=psutil.virtual_memory().total,
    )


def version_facts(engine: Engine) -> dict[str, str]:
    return {
        "edge-s2a": __version__,
        engine.name: engine.version,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "psutil": psutil.__version__,
    }
