"""Adapters of a fleet as plain arrays: what must be alike to be averaged, how they travel, and where they start."""

import hashlib
import json

import numpy as np

from edge_s2a.artifact.manifest import Manifest
from edge_s2a.errors import UserError

Adapter = dict[str, np.ndarray]


def artifact_digest(manifest: Manifest) -> str:
    """What two artifacts must share for their adapters to be averaged: the model (`model_digest`), and names and shapes
    of what is trained. They may differ in what they save for the backward pass, and so suit devices of other sizes."""
    text = json.dumps([manifest.model_digest, sorted(manifest.adapter_shapes.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def flatten(adapter: Adapter) -> np.ndarray:
    """float32 (parameters,): the adapter's values in the order of their names. Of a record's arrays each would travel
    in requests of its own."""
    return np.concatenate([array.ravel() for _, array in sorted(adapter.items())])


def unflatten(values: np.ndarray, manifest: Manifest) -> Adapter:
    """The adapter whose values these are, as views. Raises UserError unless they are as many as it takes, and finite
    float32."""
    if values.dtype != np.float32 or values.shape != (manifest.trainable_parameters,):
        raise UserError(
            f"an adapter is {values.dtype} {values.shape}, expected float32 ({manifest.trainable_parameters},); "
            "pack the artifact of every device with the same --adapter"
        )
    if not np.isfinite(values).all():
        raise UserError("an adapter has values that are not finite; train at a lower rate")
    adapter, position = {}, 0
    for name, shape in sorted(manifest.adapter_shapes.items()):
        size = int(np.prod(shape))
        adapter[name] = values[position : position + size].reshape(shape)
        position += size
    return adapter


def merge_starts(initial: Adapter, starts: list[Adapter], class_counts: np.ndarray, heads: list[str]) -> Adapter:
    """Where a fleet starts, from where each of its devices would.

    initial: the artifact's adapter. starts: what `Trainer.start` made of it on each device. class_counts: int (devices,
    classes), images of each class. heads: names of the layers that start at class means.

    Of a head, what concerns a class is the mean over the devices, weighted by their images of this class: a device that
    has none says nothing of it. The rest stays as it is. Low-rank maps start at directions that are each device's own,
    up to sign and order, so their mean says nothing; those of one device for all did no better than the artifact's.
    """
    shares = (class_counts / np.maximum(1, class_counts.sum(0))).astype(np.float32)
    names = [f"{head}.{part}" for head in heads for part in ("weight", "bias")]
    means = {name: np.einsum("dc,dc...->c...", shares, np.stack([start[name] for start in starts])) for name in names}
    return {**initial, **means}
