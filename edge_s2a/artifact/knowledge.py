"""Knowledge files: what a device has learned in one pass. Learning writes them and goes on from them; evaluation,
prediction and export read the classifier alone.

A safetensors file whose metadata ties it to the model. What is kept can take most of it, and is neither copied when it
is written nor read before it is needed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge_s2a.artifact import tensors
from edge_s2a.artifact.files import atomic_writer
from edge_s2a.artifact.intensity import INTENSITY, Intensity, parse_intensity
from edge_s2a.artifact.json_text import parse_json
from edge_s2a.artifact.learned import DRIFT_IMAGES, UNKNOWN_RATES, Familiar, Head, Measured, State
from edge_s2a.artifact.learned_tensors import (
    Expected,
    class_names_of,
    expected_tensors,
    finite,
    require,
    state_of,
    tensors_of,
)
from edge_s2a.artifact.learning_files import KNOWLEDGE_FORMAT, RECORD
from edge_s2a.artifact.manifest import Manifest, has_type
from edge_s2a.artifact.rows import FileRows, Rows
from edge_s2a.codec.features import FORMATS, Layout
from edge_s2a.errors import UserError
from edge_s2a.system.files import open_shared

HEAD, FAMILIAR, ADAPTER, TRAINED = "head.", "familiar.", "adapter:", "trained:"
MOST_IMAGES = 1 << 40
HEAD_DIGEST, DIGEST = "head_sha256", "sha256"
# The head's values that are no arrays, but for the classes, which the state has as well.
NUMBERS = {"kind": str, "groups": int, "ridge": float, "temperature": float}


@dataclass(frozen=True)
class Trained:
    """A trained adapter that answers beside the closed form: logarithms of probabilities are averaged."""

    adapter: Mapping[str, np.ndarray]
    classes: list[str]  # in the order of its logits; those of the closed form in any order
    share: float  # of the average that is the adapter's, above 0 and at most 1


@dataclass(frozen=True)
class Knowledge:
    """What a knowledge file holds."""

    state: State
    head: Head
    adapter: Mapping[str, np.ndarray]  # that the features were computed with; empty if they are the pretrained model's
    artifact: str  # path of the artifact when it was learned
    # What learning says of itself, as JSON: edge_s2a.run.schema.LearningSummary.
    record: Mapping[str, Any] = field(default_factory=dict)
    trained: Trained | None = None
    intensity: Intensity | None = None  # of images of more than 8 bits


def save_knowledge(path: Path, knowledge: Knowledge, manifest: Manifest) -> None:
    """Writes a knowledge file, atomically. Raises UserError if it cannot be written."""
    state, head = knowledge.state, knowledge.head
    assert head.classes == state.classes, "the head is that of the state"
    told: dict[str, Rows] = {HEAD + name: getattr(head, name) for name in _shapes_of_head(0, 0)}
    if head.familiar is not None:
        told |= {FAMILIAR + name: getattr(head.familiar, name) for name in _shapes_of_familiar(0, 0)}
    told |= {ADAPTER + name: array for name, array in knowledge.adapter.items()}
    trained = knowledge.trained
    if trained is not None:
        assert sorted(trained.classes) == state.classes, "both know the same classes"
        told |= {TRAINED + name: array for name, array in trained.adapter.items()}
    numbers = {name: getattr(head, name) for name in NUMBERS}
    metadata = {
        "format": KNOWLEDGE_FORMAT,
        "model": manifest.model,
        "model_digest": manifest.model_digest,
        "artifact": knowledge.artifact,
        "taps": json.dumps(list(state.layout.taps.items())),
        "codes": state.layout.format,
        "classes": json.dumps(state.classes),
        "folded_groups": str(0 if state.folded is None else state.folded.groups),
        RECORD: json.dumps(knowledge.record),
        "head": json.dumps(numbers | {"measured": None if head.measured is None else asdict(head.measured)}),
    }
    if knowledge.intensity is not None:
        metadata[INTENSITY] = str(knowledge.intensity)
    if trained is not None:
        metadata["trained"] = json.dumps({"share": trained.share, "classes": trained.classes})
    metadata[HEAD_DIGEST] = tensors.digest(told, metadata)
    with atomic_writer(path) as file:
        tensors.write_with_digest(file, told | tensors_of(state), metadata)


def load_knowledge(path: Path, manifest: Manifest) -> Knowledge:
    """Reads a knowledge file. What is kept, and the sums, stay in it, and are read when they are needed.

    Raises UserError for a file that is damaged, is none, or was learned with another artifact.
    """
    opened = _open(path, manifest)
    expected = opened.told | opened.learned
    _require_tensors(opened, expected)
    if not tensors.has_its_digest(opened.tensors, opened.metadata):
        raise UserError(f"{opened.where} is damaged: its checksum is wrong; use another copy")
    try:
        state = state_of(opened.tensors, opened.layout, opened.classes, opened.folded_groups)
        taught, record = _taught(opened, manifest), _record(opened)
        intensity = parse_intensity(opened.metadata.get(INTENSITY))
        if (taught.head.counts != state.counts).any():
            raise ValueError(f"a head of {taught.head.images} images for {state.counts.sum()}")
    except (ValueError, KeyError, TypeError) as error:
        raise _malformed(opened, error) from error
    return Knowledge(state, taught.head, taught.adapter, opened.metadata["artifact"], record, taught.trained, intensity)


class Taught(NamedTuple):
    """What answers of a knowledge file, without what it was learned from."""

    head: Head
    adapter: dict[str, np.ndarray]  # that the features are computed with; empty if they are the pretrained model's
    trained: Trained | None


def load_taught(path: Path, manifest: Manifest) -> Taught:
    """Reads the classifier of a knowledge file. Raises UserError as `load_knowledge` does."""
    opened = _open(path, manifest)
    _require_tensors(opened, opened.told)
    metadata = {key: text for key, text in opened.metadata.items() if key not in (HEAD_DIGEST, DIGEST)}
    told = {name: opened.tensors[name] for name in opened.told}
    if tensors.digest(told, metadata) != opened.metadata.get(HEAD_DIGEST):
        raise UserError(f"{opened.where} is damaged: its checksum is wrong; use another copy")
    try:
        return _taught(opened, manifest)
    except (ValueError, KeyError, TypeError) as error:
        raise _malformed(opened, error) from error


def is_knowledge(path: Path) -> bool:
    """Whether a file is a knowledge file, as far as its beginning tells. Raises UserError if it cannot be read."""
    return (_metadata_of(path) or {}).get("format") == KNOWLEDGE_FORMAT


def artifact_of(path: Path) -> Path:
    """Where the artifact was that a knowledge file was learned with. Raises UserError for a file that is none."""
    metadata = _metadata_of(path) or {}
    if metadata.get("format") != KNOWLEDGE_FORMAT or not metadata.get("artifact"):
        raise UserError(f"{path} is not a knowledge file that edge-s2a learn wrote; give one, or an artifact")
    return Path(metadata["artifact"])


# -- reading -------------------------------------------------------------------------------------------


class Opened(NamedTuple):
    """A file whose header fits the artifact."""

    where: str
    tensors: dict[str, FileRows]
    metadata: dict[str, str]
    layout: Layout
    classes: list[str]
    folded_groups: int
    told: dict[str, Expected]  # the tensors that there must be: of head and adapter,
    learned: dict[str, Expected]  # and of what it was learned from


def _metadata_of(path: Path) -> dict[str, str] | None:
    """The metadata of a safetensors file; None for another file."""
    try:
        with open(path, "rb", buffering=0) as file:
            return tensors.open_rows(file, str(path))[1]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    except UserError:
        return None


def _open(path: Path, manifest: Manifest) -> Opened:
    where = f"knowledge file {path}"
    try:
        file = open_shared(path)
    except OSError as error:
        raise UserError(f"cannot read {where}: {error.strerror}; check the path") from error
    found, metadata = tensors.open_rows(file, where)
    if metadata.get("format") != KNOWLEDGE_FORMAT:
        raise UserError(f"{path} is not a knowledge file that edge-s2a learn wrote; give one of this version")
    if metadata.get("model_digest") != manifest.model_digest:
        raise UserError(
            f"{where} belongs to another artifact (model {metadata.get('model')}); "
            "give the artifact it was learned with"
        )
    if metadata.get("taps") != json.dumps(list(manifest.taps.items())):
        raise UserError(
            f"{where} was learned from other features of the model; "
            "give the artifact it was learned with, or pack with the same --taps"
        )
    try:
        classes = class_names_of(metadata["classes"])
        layout, groups = Layout(metadata["codes"], dict(manifest.taps)), int(metadata["folded_groups"])
        if layout.format not in FORMATS or not 0 <= groups <= len(layout.taps):
            raise ValueError(f"codes {layout.format[:20]!r}, {groups} groups")
        metadata["artifact"].encode()
    except (ValueError, KeyError) as error:
        raise UserError(f"{where} has malformed metadata ({error}); use another copy") from error
    told, learned = _told(found, layout, classes, manifest), expected_tensors(layout, len(classes), groups)
    return Opened(where, found, metadata, layout, classes, groups, told, learned)


def _shapes_of_head(classes: int, width: int) -> dict[str, Expected]:
    return {
        "weight": ("float32", (classes, width)),
        "bias": ("float32", (classes,)),
        "mean": ("float32", (width,)),
        "deviation": ("float32", (width,)),
        "counts": ("int64", (classes,)),
    }


def _shapes_of_familiar(classes: int, width: int) -> dict[str, Expected]:
    return {
        "means": ("float32", (classes, width)),
        "within": ("float32", (width,)),
        "scales": ("float32", (2, 2)),
        "unknown": ("float32", (len(UNKNOWN_RATES),)),
        "drift": ("float32", (len(DRIFT_IMAGES),)),
    }


def _told(found: Mapping[str, Rows], layout: Layout, classes: Sequence[str], manifest: Manifest) -> dict[str, Expected]:
    told = {HEAD + name: expected for name, expected in _shapes_of_head(len(classes), layout.width).items()}
    if any(name.startswith(FAMILIAR) for name in found):
        shapes = _shapes_of_familiar(len(classes), layout.width)
        told |= {FAMILIAR + name: expected for name, expected in shapes.items()}
    for prefix in (ADAPTER, TRAINED):
        if any(name.startswith(prefix) for name in found):
            told |= {prefix + name: ("float32", tuple(shape)) for name, shape in manifest.adapter_shapes.items()}
    return told


def _require_tensors(opened: Opened, expected: Mapping[str, Expected]) -> None:
    """Raises UserError unless the file has these tensors, in these shapes, and no others but what was learned."""
    for name in sorted(set(opened.tensors) ^ set(opened.told | opened.learned)):
        raise UserError(f"{opened.where}: tensor {name} is missing or unknown; use another copy")
    try:
        require(opened.tensors, expected)
    except ValueError as error:
        raise UserError(f"{opened.where}: {error}; use another copy") from error


def _malformed(opened: Opened, error: Exception) -> UserError:
    return UserError(f"{opened.where} is malformed ({error}); use another copy")


def _finite(opened: Opened, name: str) -> np.ndarray:
    return finite(opened.tensors, name)


def _taught(opened: Opened, manifest: Manifest) -> Taught:
    """Raises ValueError, KeyError or TypeError for values that no classifier has."""
    return Taught(_head(opened), _adapter(opened), _trained(opened, manifest))


def _head(opened: Opened) -> Head:
    """Raises ValueError, KeyError or TypeError for values that no head has."""
    arrays = {name: _finite(opened, HEAD + name) for name in _shapes_of_head(0, 0)}
    if (arrays["deviation"] < 0).any() or not ((arrays["counts"] > 0) & (arrays["counts"] < MOST_IMAGES)).all():
        raise ValueError("deviations below 0, or classes without images")
    numbers = parse_json(opened.metadata["head"])
    if not isinstance(numbers, dict) or set(numbers) != {*NUMBERS, "measured"}:
        raise ValueError("other fields of the head")
    if not all(has_type(kind, numbers[name]) for name, kind in NUMBERS.items()):
        raise ValueError("the head's numbers are none")
    if (
        numbers["kind"] not in ("dual", "primal")
        or not 1 <= numbers["groups"] <= len(opened.layout.taps)
        or not (numbers["ridge"] > 0 and numbers["temperature"] > 0)
    ):
        raise ValueError("impossible numbers of the head")
    measured = _measured(numbers["measured"], len(opened.classes))
    values: dict[str, Any] = arrays | numbers | {"measured": measured, "familiar": _familiar(opened)}
    return Head(classes=list(opened.classes), **values)


def _record(opened: Opened) -> dict[str, Any]:
    """Of a file that was written without one: {}. What is in it is for readers to judge."""
    record = parse_json(opened.metadata.get(RECORD, "{}"))
    if not isinstance(record, dict):
        raise ValueError("a record that is no object")
    return record


def _measured(values: Any, classes: int) -> Measured | None:
    if values is None:
        return None
    measured = Measured(**values)
    numbers = (measured.accuracy, measured.log_loss, measured.calibration_error)
    if not all(has_type(float, value) and value >= 0 for value in numbers):
        raise ValueError("what was measured is no number")
    if measured.confusion is not None:
        if not has_type(list[list[int]], measured.confusion):
            raise ValueError("confusions that are no numbers")
        counts = [count for row in measured.confusion for count in row]
        is_square = {len(measured.confusion), *map(len, measured.confusion)} == {classes}
        if not is_square or not all(0 <= count < MOST_IMAGES for count in counts):
            raise ValueError("impossible confusions")
    return measured


def _familiar(opened: Opened) -> Familiar | None:
    if FAMILIAR + "means" not in opened.told:
        return None
    arrays = {name: _finite(opened, FAMILIAR + name) for name in _shapes_of_familiar(0, 0)}
    if (arrays["within"] < 0).any() or not (arrays["scales"][:, 1] > 0).all() or (arrays["drift"] < 0).any():
        raise ValueError("deviations below 0")
    return Familiar(**arrays)


def _adapter(opened: Opened, prefix: str = ADAPTER) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): _finite(opened, name) for name in opened.told if name.startswith(prefix)}


def _trained(opened: Opened, manifest: Manifest) -> Trained | None:
    adapter = _adapter(opened, TRAINED)
    if not adapter:
        return None
    values = parse_json(opened.metadata["trained"])
    if not isinstance(values, dict) or set(values) != {"share", "classes"}:
        raise ValueError("other fields of the trained adapter")
    share, classes = values["share"], values["classes"]
    if not has_type(float, share) or not 0 < share <= 1:
        raise ValueError("an impossible share of the trained adapter")
    if not has_type(list[str], classes) or sorted(classes) != opened.classes or len(classes) != manifest.num_classes:
        raise ValueError("a trained adapter of other classes")
    return Trained(adapter, classes, share)
