"""The device's side of a fleet: answers one message of the server.

Flower's SuperNode starts a process for each message, one at a time, so all memory goes back in between, and the budget
covers what Flower itself takes there. Nothing is kept from one message to the next: each round starts the optimizer
anew.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.manifest import Manifest
from edge_s2a.device.memory.available import parse_budget
from edge_s2a.device.memory.process import peak_resident_bytes
from edge_s2a.device.start.head import IMAGES_PER_CLASS
from edge_s2a.device.trainer import Trainer
from edge_s2a.errors import BudgetError, UserError
from edge_s2a.sizes import MIB
from fleet.adapters import artifact_digest, flatten, unflatten
from fleet.data import training_images, validation_images

# Times the adapter is in memory when a reply leaves: gathered, serialised, as an object of Flower's, as a request;
# measured up to 5.1.
REPLY_COPIES = 6

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Trains the adapter of the message for some steps, or says where this device would start."""
    return reply(message, context, start_locally if message.content["config"]["start"] else train_locally)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluates the adapter of the message on this device's validation images."""
    return reply(message, context, evaluate_locally)


def reply(message: Message, context: Context, work: Callable[[RecordDict, Context], RecordDict]) -> Message:
    """What `work` answers, or an error that says in a sentence why this device has no answer: then the round goes on
    without it."""
    try:
        return Message(work(message.content, context), reply_to=message)
    except UserError as error:
        print(f"edge-s2a: {error}", file=sys.stderr, flush=True)
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error)), reply_to=message)


def start_locally(content: RecordDict, context: Context) -> RecordDict:
    """The adapter with the head that this device would start from, and its number of images of each class."""
    manifest = own_manifest(content, context)
    images = training_images(data_folder(context), manifest.class_names())
    trainer = make_trainer(content, context, manifest)
    trainer.start(images)
    counts = np.bincount([label for _, label in images], minlength=manifest.num_classes)
    if len(set(trainer.skipped)) == np.minimum(counts, IMAGES_PER_CLASS).sum():
        raise nothing_readable(trainer)
    metrics = {"num-examples": len(images), "class-counts": counts.tolist()}
    return record(trainer, manifest, metrics, with_adapter=True)


def train_locally(content: RecordDict, context: Context) -> RecordDict:
    """The adapter after `local-steps`, with the mean loss over these."""
    manifest = own_manifest(content, context)
    images = training_images(data_folder(context), manifest.class_names())
    trainer = make_trainer(content, context, manifest)
    losses = []
    start_s = time.monotonic()
    trainer.fit(images, steps=context.run_config["local-steps"], on_step=lambda step: losses.append(step.loss))
    if not losses:
        raise nothing_readable(trainer)
    metrics = {
        "num-examples": len(images) - len(set(trainer.skipped)),
        "loss": fmean(losses),
        "seconds": time.monotonic() - start_s,
    }
    return record(trainer, manifest, metrics, with_adapter=True)


def evaluate_locally(content: RecordDict, context: Context) -> RecordDict:
    """Accuracy and loss of the adapter."""
    manifest = own_manifest(content, context)
    images = validation_images(data_folder(context), manifest.class_names())
    trainer = make_trainer(content, context, manifest)
    result = trainer.evaluate(images)
    metrics = {"num-examples": result.images, "accuracy": result.accuracy, "loss": result.loss}
    return record(trainer, manifest, metrics, with_adapter=False)


def own_manifest(content: RecordDict, context: Context) -> Manifest:
    """Of this device's artifact. Raises UserError if it is not the server's."""
    path = Path(setting(context, "artifact"))
    manifest = Artifact(path).manifest
    if artifact_digest(manifest) != content["config"]["artifact-digest"]:
        raise UserError(
            f"artifact {path} (model {manifest.model}) is not the server's; copy the server's artifact to this device"
        )
    return manifest


def make_trainer(content: RecordDict, context: Context, manifest: Manifest) -> Trainer:
    """A trainer within this device's budget that holds the adapter of the message. Raises UserError."""
    run, node = context.run_config, context.node_config
    budget = str(node.get("memory-budget", "auto"))
    try:
        trainer = Trainer(
            setting(context, "artifact"),
            memory_budget=parse_budget(budget) - reply_bytes(manifest),
            batch_size=run["batch-size"],
            lr=run["lr"],
            seed=content["config"]["server-round"],  # or each round would begin with the same images
            threads=node.get("threads"),
        )
    except BudgetError as error:
        least_mib = -(-(error.minimum_budget_bytes + reply_bytes(manifest)) // MIB)
        raise UserError(
            f"a memory budget of {budget} cannot be met; "
            f'start this SuperNode with memory-budget="{least_mib}MiB" or more in --node-config'
        ) from error
    trainer.adapter = unflatten(content["arrays"]["adapter"].numpy(), manifest)
    return trainer


def reply_bytes(manifest: Manifest) -> int:
    """What a reply takes beside the trainer."""
    return REPLY_COPIES * 4 * manifest.trainable_parameters


def setting(context: Context, name: str) -> str:
    """Of the SuperNode's --node-config. Raises UserError where it is missing."""
    if name not in context.node_config:
        raise UserError(f'--node-config has no {name}; start this SuperNode with {name}="..." there')
    return str(context.node_config[name])


def data_folder(context: Context) -> Path:
    return Path(setting(context, "data"))


def nothing_readable(trainer: Trainer) -> UserError:
    return UserError(f"no training image could be read; correct these: {sorted(set(trainer.skipped))[:3]}")


def record(trainer: Trainer, manifest: Manifest, metrics: dict, with_adapter: bool) -> RecordDict:
    """A reply's content: metrics, what memory the device took and has, and the adapter."""
    budget_bytes = trainer.plan.budget_bytes + reply_bytes(manifest)
    memory = {"peak-bytes": peak_resident_bytes(), "budget-bytes": budget_bytes}
    content = RecordDict({"metrics": MetricRecord({**metrics, **memory})})
    if with_adapter:
        content["arrays"] = ArrayRecord({"adapter": Array(flatten(trainer.adapter))})
    return content
