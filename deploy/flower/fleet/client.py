"""The device's side of a fleet: answers one message of the server.

Flower's SuperNode starts a process for each message, one at a time, so all memory goes back in between, and the budget
covers what Flower itself takes there. Nothing is kept from one message to the next: each round starts the optimizer
anew.
"""

import time
from statistics import fmean

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from edge_s2a.artifact.manifest import Manifest
from edge_s2a.device.start.head import IMAGES_PER_CLASS
from edge_s2a.device.trainer import Trainer
from edge_s2a.system.memory import peak_resident_bytes
from fleet.adapters import artifact_digest, flatten, unflatten
from fleet.data import training_images, validation_images
from fleet.learning_client import evaluate_learned, learn_locally
from fleet.node import data_folder, nothing_readable, own_manifest, reply, setting, within_budget

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


@app.train("learn")
def learn(message: Message, context: Context) -> Message:
    """Learns this device's images in one pass."""
    return reply(message, context, learn_locally)


@app.evaluate("learn")
def evaluate_what_was_learned(message: Message, context: Context) -> Message:
    """Evaluates the classifier of the message on this device's validation images."""
    return reply(message, context, evaluate_learned)


def start_locally(content: RecordDict, context: Context) -> RecordDict:
    """The adapter with the head that this device would start from, and its number of images of each class."""
    manifest = own_manifest(content, context, artifact_digest)
    images = training_images(data_folder(context), manifest.class_names())
    trainer = make_trainer(content, context, manifest)
    trainer.start(images)
    counts = np.bincount([label for _, label in images], minlength=manifest.num_classes)
    if len(set(trainer.skipped)) == np.minimum(counts, IMAGES_PER_CLASS).sum():
        raise nothing_readable(trainer.skipped)
    metrics = {"num-examples": len(images), "class-counts": counts.tolist()}
    return record(trainer, manifest, metrics, with_adapter=True)


def train_locally(content: RecordDict, context: Context) -> RecordDict:
    """The adapter after `local-steps`, with the mean loss over these."""
    manifest = own_manifest(content, context, artifact_digest)
    images = training_images(data_folder(context), manifest.class_names())
    trainer = make_trainer(content, context, manifest)
    losses = []
    start_s = time.monotonic()
    trainer.fit(images, steps=context.run_config["local-steps"], on_step=lambda step: losses.append(step.loss))
    if not losses:
        raise nothing_readable(trainer.skipped)
    metrics = {
        "num-examples": len(images) - len(set(trainer.skipped)),
        "loss": fmean(losses),
        "seconds": time.monotonic() - start_s,
    }
    return record(trainer, manifest, metrics, with_adapter=True)


def evaluate_locally(content: RecordDict, context: Context) -> RecordDict:
    """Accuracy and loss of the adapter."""
    manifest = own_manifest(content, context, artifact_digest)
    images = validation_images(data_folder(context), manifest.class_names())
    trainer = make_trainer(content, context, manifest)
    result = trainer.evaluate(images)
    metrics = {"num-examples": result.images, "accuracy": result.accuracy, "loss": result.loss}
    return record(trainer, manifest, metrics, with_adapter=False)


def make_trainer(content: RecordDict, context: Context, manifest: Manifest) -> Trainer:
    """A trainer within this device's budget that holds the adapter of the message. Raises UserError."""
    run = context.run_config

    def load(budget_bytes: int) -> Trainer:
        return Trainer(
            setting(context, "artifact"),
            memory_budget=budget_bytes,
            batch_size=run["batch-size"],
            lr=run["lr"],
            seed=content["config"]["server-round"],  # or each round would begin with the same images
            threads=context.node_config.get("threads"),
        )

    trainer = within_budget(context, reply_bytes(manifest), load)
    trainer.adapter = unflatten(content["arrays"]["adapter"].numpy(), manifest)
    return trainer


def reply_bytes(manifest: Manifest) -> int:
    """What a reply takes beside the trainer."""
    return REPLY_COPIES * 4 * manifest.trainable_parameters


def record(trainer: Trainer, manifest: Manifest, metrics: dict, with_adapter: bool) -> RecordDict:
    """A reply's content: metrics, what memory the device took and has, and the adapter."""
    budget_bytes = trainer.plan.budget_bytes + reply_bytes(manifest)
    memory = {"peak-bytes": peak_resident_bytes(), "budget-bytes": budget_bytes}
    content = RecordDict({"metrics": MetricRecord({**metrics, **memory})})
    if with_adapter:
        content["arrays"] = ArrayRecord({"adapter": Array(flatten(trainer.adapter))})
    return content
