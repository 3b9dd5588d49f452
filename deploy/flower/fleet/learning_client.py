"""The device's side of learning in one pass: answers with what it learned, and tries the classifier of all."""

import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, MetricRecord, RecordDict

from edge_s2a.artifact.manifest import Manifest
from edge_s2a.device.classifier import load_taps
from edge_s2a.device.data.dataset import open_dataset
from edge_s2a.device.engine.base import Inputs
from edge_s2a.device.engine.batches import taps_of
from edge_s2a.device.evaluate import evaluate
from edge_s2a.device.learner import Learner
from edge_s2a.device.learning_plan import IMAGE_BYTES, Expected
from edge_s2a.device.load import start_engine
from edge_s2a.device.runtime import Runtime
from edge_s2a.errors import UserError
from edge_s2a.options import LearnerOptions
from edge_s2a.system.memory import peak_resident_bytes
from fleet.data import named_images, validation_folder
from fleet.node import data_folder, nothing_readable, own_manifest, setting, within_budget
from fleet.states import CODES, SUMS, choice, head_of, is_factored, layout_of, learning_digest, pack, packed_bytes

# Times what is sent is in memory at most, from packing to the last request: measured up to 3.1.
COPIES = 4
# Times the features of all images are in memory as float64 while they are factored: measured up to 3.7.
FACTORING_COPIES = 4


def learn_locally(content: RecordDict, context: Context) -> RecordDict:
    """What this device learned from its training images, as features or sums."""
    manifest = own_manifest(content, context, learning_digest)
    images = named_images(data_folder(context))
    classes = len({name for _, name in images})
    kind = choice(str(context.run_config["send"]), len(images), classes, layout_of(manifest))
    held_bytes = sending_bytes(kind, len(images), classes, manifest)
    learner = within_budget(context, held_bytes, lambda budget: make_learner(context, manifest, len(images), budget))
    start_s = time.monotonic()
    learner.learn(images)
    if not learner.images:
        raise nothing_readable(learner.skipped)
    state = ArrayRecord({"state": Array(pack(learner.state, kind))})
    metrics = {"seconds": time.monotonic() - start_s, "skipped": len(learner.skipped)}
    return RecordDict({"arrays": state, "metrics": with_memory(metrics, learner.plan.budget_bytes + held_bytes)})


def evaluate_learned(content: RecordDict, context: Context) -> RecordDict:
    """Accuracy and loss of the classifier of the message."""
    manifest = own_manifest(content, context, learning_digest)
    classes = [str(name) for name in content["config"]["classes"]]
    weight, bias = head_of(content["arrays"]["head"].numpy(), len(classes), manifest)
    dataset = open_dataset(validation_folder(data_folder(context)), "val", classes, None)
    settings = start_engine("cpu", context.node_config.get("threads"))

    def load(budget_bytes: int) -> Runtime:
        return load_taps(Path(setting(context, "artifact")), budget_bytes, settings)

    runtime = within_budget(context, 0, load)

    def logits(inputs: Inputs) -> np.ndarray:
        assert isinstance(inputs, np.ndarray), "taps are of images"
        return taps_of(runtime.engine, inputs).features @ weight.T + bias

    result = evaluate(logits, runtime.collator, dataset)
    if not result["count"]:
        raise UserError(f"no validation image could be read; correct these: {sorted(dataset.skipped)[:3]}")
    metrics = {"num-examples": result["count"], "accuracy": result["accuracy"]}
    return RecordDict({"metrics": with_memory(metrics, runtime.plan.budget_bytes)})


def make_learner(context: Context, manifest: Manifest, images: int, budget_bytes: int) -> Learner:
    """A learner that keeps the features of all images until they are sent, and plans for no classifier of its own.
    Raises BudgetError."""
    options = LearnerOptions(
        setting(context, "artifact"),
        memory_budget=budget_bytes,
        threads=context.node_config.get("threads"),
        storage=images * layout_of(manifest).row_bytes,
        codes=CODES,
    )
    return Learner.expecting(options, Expected(kept=0, folded=0, folded_groups=None, classes=1))


def sending_bytes(kind: str, images: int, classes: int, manifest: Manifest) -> int:
    """What knowing the images and sending what was learned of them takes beside the learner, at most."""
    layout = layout_of(manifest)
    factoring_bytes = 8 * images * layout.width if kind == SUMS and is_factored(images, layout) else 0
    sent_bytes = packed_bytes(kind, images, classes, layout)
    return IMAGE_BYTES * images + max(COPIES * sent_bytes, FACTORING_COPIES * factoring_bytes)


def with_memory(metrics: dict, budget_bytes: int) -> MetricRecord:
    """Metrics, with what memory the device took and has."""
    return MetricRecord({**metrics, "peak-bytes": peak_resident_bytes(), "budget-bytes": budget_bytes})
