"""Tells the classes of images: with a trained adapter, or with what was learned in one pass."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_s2a.artifact.adapter import copy_into, intensity_of, load_adapter
from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.knowledge import Taught, is_knowledge, load_taught
from edge_s2a.artifact.learned import Head
from edge_s2a.artifact.program import TO_LEARN
from edge_s2a.device.average import Average, average_bytes
from edge_s2a.device.closed_form.solve import scores
from edge_s2a.device.data.dataset import Dataset
from edge_s2a.device.data.micro_batches import read_batches
from edge_s2a.device.engine.base import EngineSettings, Inputs
from edge_s2a.device.engine.batches import taps_of
from edge_s2a.device.load import (
    INFERENCE_BATCH_SIZE,
    load,
    load_planned,
    measure_loaded,
    require_adapter,
    within_budget,
)
from edge_s2a.device.memory.index import NO_INDEX, IndexMemory
from edge_s2a.device.runtime import Runtime


class Answer(NamedTuple):
    """What is known of the images of a micro-batch."""

    logits: np.ndarray  # float32 (batch, classes)
    features: np.ndarray | None  # float32 (batch, features), where they were learned from


@dataclass(frozen=True)
class Classifier:
    """A loaded artifact, and what it was taught."""

    runtime: Runtime
    classes: list[str]
    head: Head | None  # None: an adapter, whose head is in the engine
    average: Average | None = None  # with a trained adapter, where the knowledge file has one

    def answer(self, inputs: Inputs) -> Answer:
        if self.head is None:
            return Answer(self.runtime.logits(inputs), None)
        assert isinstance(inputs, np.ndarray), "taps are of images"
        features = taps_of(self.runtime.engine, inputs).features
        learned = scores(self.head, features)
        return Answer(learned if self.average is None else self.average.logits(learned, inputs), features)

    def logits(self, inputs: Inputs) -> np.ndarray:
        """float32 (batch, classes)."""
        return self.answer(inputs).logits

    def answers(self, dataset: Dataset) -> Iterator[tuple[list[int], Answer]]:
        """Yields (indices, answer) of all readable images, in micro-batches."""
        for indices, inputs in read_batches(dataset, range(len(dataset)), self.runtime.collator):
            yield indices, self.answer(inputs)


def load_classifier(
    artifact: Path, taught: Path, budget_bytes: int, settings: EngineSettings, index: IndexMemory = NO_INDEX
) -> Classifier:
    """The artifact with a trained adapter or a knowledge file, for inference within a memory budget. index: of the
    images that will be read.

    Raises BudgetError if not even one image at a time fits, UserError if the file does not fit the artifact.
    """
    if is_knowledge(taught):
        known = load_taught(taught, Artifact(artifact).manifest)
        runtime, classes = load_taps(artifact, budget_bytes, settings, known, index), known.head.classes
        average = None if known.trained is None else Average(runtime.engine, known.trained, classes)
        runtime.collator.intensity = intensity_of(taught)
        return Classifier(runtime, classes, known.head, average)
    runtime = load(artifact, budget_bytes, INFERENCE_BATCH_SIZE, settings, index=index)
    tensors, classes = load_adapter(taught, runtime.artifact.manifest)
    copy_into(runtime.engine.adapter, tensors)
    runtime.collator.intensity = intensity_of(taught)
    return Classifier(runtime, classes, None)


def classes_of(artifact: Path, taught: Path) -> list[str]:
    """Names of the classes of a trained adapter or a knowledge file. Raises UserError if it does not fit the
    artifact."""
    if is_knowledge(taught):
        return load_taught(taught, Artifact(artifact).manifest).head.classes
    return load_adapter(taught, require_adapter(artifact))[1]


def load_taps(
    artifact: Path,
    budget_bytes: int,
    settings: EngineSettings,
    taught: Taught | None = None,
    index: IndexMemory = NO_INDEX,
) -> Runtime:
    """The artifact for features of images alone, of the pretrained model or as a knowledge file has them, within a
    memory budget. Raises BudgetError if not even one image at a time fits."""
    measurement = measure_loaded(artifact, settings, TO_LEARN, index)
    held_bytes = average_bytes(taught.trained if taught else None)
    plan = within_budget(lambda limit: measurement.plan(limit, INFERENCE_BATCH_SIZE, held_bytes), budget_bytes)
    runtime = load_planned(artifact, settings, TO_LEARN, plan)
    if taught and taught.adapter:
        copy_into(runtime.engine.adapter, taught.adapter)
    return runtime
