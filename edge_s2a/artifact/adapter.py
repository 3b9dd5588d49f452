"""Adapter files: training writes them, evaluation and export read them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edge_s2a.artifact import tensors
from edge_s2a.artifact.files import atomic_writer, read_bytes
from edge_s2a.artifact.intensity import INTENSITY, Intensity, parse_intensity
from edge_s2a.artifact.json_text import parse_json
from edge_s2a.artifact.manifest import Manifest, has_type
from edge_s2a.errors import UserError

FORMAT = "edge-s2a adapter 2"


def save_adapter(
    path: Path,
    adapter: dict[str, np.ndarray],
    manifest: Manifest,
    classes: list[str],
    intensity: Intensity | None = None,
) -> None:
    """A safetensors file whose metadata ties it to the model it belongs to and names its classes. intensity: that
    images of more than 8 bits were trained with."""
    metadata = {
        "format": FORMAT,
        "model": manifest.model,
        "model_digest": manifest.model_digest,
        "classes": json.dumps(classes, ensure_ascii=False),
    }
    if intensity is not None:
        metadata[INTENSITY] = str(intensity)
    with atomic_writer(path) as file:
        tensors.write_with_digest(file, adapter, metadata)


def load_adapter(path: Path, manifest: Manifest) -> tuple[dict[str, np.ndarray], list[str]]:
    """(tensors, class names). Raises UserError for a file that is damaged or of another model."""
    loaded, metadata = tensors.decode(read_bytes(path, "adapter"), f"adapter {path}")
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is not an adapter that edge-s2a train wrote; give RUN/best.safetensors")
    if not tensors.has_its_digest(loaded, metadata):
        raise UserError(f"adapter {path} is damaged: its checksum is wrong; use another copy")
    if metadata.get("model_digest") != manifest.model_digest:
        raise UserError(
            f"adapter {path} belongs to another artifact (model {metadata.get('model')}); "
            "give the artifact it was trained with"
        )
    check_shapes(loaded, manifest, f"adapter {path}")
    try:
        classes = parse_json(metadata["classes"])
    except (KeyError, ValueError) as error:
        raise UserError(f"adapter {path} does not name its classes ({error}); use another adapter") from error
    if not has_type(list[str], classes) or len(classes) != manifest.num_classes:
        raise UserError(
            f"adapter {path} names the classes {classes}, the artifact has {manifest.num_classes}; use another adapter"
        )
    return loaded, classes


def intensity_of(path: Path) -> Intensity | None:
    """What an adapter or knowledge file was taught with to be black and white in images of more than 8 bits; None where
    it was taught none. Raises UserError if the file cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            _, metadata = tensors.open_rows(file, str(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    return parse_intensity(metadata.get(INTENSITY))


def copy_into(arrays: Mapping[str, np.ndarray], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes the values of `tensors` into the arrays of the same names, which stay where they are."""
    for name, array in arrays.items():
        array[...] = tensors[name]


def check_shapes(loaded: dict[str, np.ndarray], manifest: Manifest, where: str) -> None:
    """Raises UserError unless `loaded` has exactly the adapter's tensors, finite float32."""
    for name in sorted(set(loaded) ^ set(manifest.adapter_shapes)):
        raise UserError(f"{where}: tensor {name} is missing or unknown; use an adapter of this artifact")
    for name, shape in manifest.adapter_shapes.items():
        array = loaded[name]
        if list(array.shape) != shape or array.dtype != np.float32:
            raise UserError(
                f"{where}: tensor {name} is {array.dtype} {array.shape}, expected float32 {shape}; use another one"
            )
        if not np.isfinite(array).all():
            raise UserError(f"{where}: tensor {name} has values that are not finite; use an earlier adapter")
