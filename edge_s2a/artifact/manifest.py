"""The manifest: the description of an artifact. One JSON object, documented in docs/FORMAT.md."""

import builtins
import dataclasses
import hashlib
import json
import math
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from edge_s2a.artifact.json_text import parse_json
from edge_s2a.errors import UserError

FORMAT_VERSION = 7
MOST_FEATURES = 1 << 26  # values per image; a ViT-L at 512 px has three million
MOST_TAPS = 1 << 20  # values per image; all blocks of a ViT-L have a hundred thousand
GOLDEN_OPTIMIZER = {"lr", "beta1", "beta2", "epsilon", "weight_decay"}


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the model's input, as timm's data config says.

    Resize so that the shorter side (crop_mode "center") or both sides ("squash") are `resize_size`, crop
    the centre `image_size`, divide by 255, subtract mean, divide by std (RGB).
    """

    image_size: tuple[int, int]  # height, width
    resize_size: tuple[int, int]  # height, width
    crop_mode: str  # "center" or "squash"
    interpolation: str  # "bilinear", "bicubic", "lanczos" or "nearest"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Manifest:
    format_version: int
    producer: str
    model: str
    model_kwargs: dict[str, Any]
    num_classes: int  # of the head; 0 where the artifact has none
    labels: list[str] | None
    preprocessing: Preprocessing
    adapter: list[str]  # structural modules, e.g. ["bias"]; none where nothing can be trained
    first_block: int  # number, from 1 on, of the first block that they act in
    adapter_shapes: dict[str, list[int]]  # trainable tensors in the order of the graph's inputs
    head: list[str]  # layers of the adapter that may start at class means: linear, with bias, their mean the logits
    low_rank_maps: list[str]  # <name>.down (rank, inputs) and .up (outputs, rank): their product is linear in both
    features: dict[str, list[int]]  # shape per image of what "training" and "inference" read instead of it
    taps: dict[str, int]  # statistic of a block that the program "taps" gives, in order -> its numbers per image
    total_parameters: int
    weight_format: str
    int8_layers: list[str]  # linear layers whose products are computed in int8
    saved_bits: str  # "2", "4", "8", "32" or "auto"
    mean_saved_bits: float  # of a coded value; 0.0 if nothing is coded
    levels: str  # of derivatives: "uniform" or "fitted"
    saved_bytes_per_image: int
    golden_optimizer: dict[str, float]  # of the golden update: lr, beta1, beta2, epsilon, weight_decay
    members: dict[str, dict[str, Any]]  # name -> bytes, sha256; every member but the manifest

    @property
    def can_train(self) -> bool:
        """Whether the artifact has a training program; without one it only learns in one pass."""
        return bool(self.adapter)

    @property
    def tap_count(self) -> int:
        """Numbers per image that the program "taps" gives."""
        return sum(self.taps.values())

    @property
    def trainable_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.adapter_shapes.values())

    def class_names(self, names: Sequence[str] | None = None) -> list[str]:
        """`names`, of which there must be one per class; without them the artifact's labels, or else numbers."""
        names = list(names or self.labels or map(str, range(self.num_classes)))
        if len(names) != self.num_classes:
            raise UserError(
                f"{len(names)} class names for an artifact of {self.num_classes} classes; give one name per class"
            )
        return names

    @property
    def model_digest(self) -> str:
        """The digest that an adapter must match: of frozen weights, model and class labels. Not of the graphs, which
        another version of the packager may write differently for the same computation."""
        weights = self.members["weights.safetensors"]["sha256"]
        text = json.dumps([weights, self.model, self.model_kwargs, self.num_classes, self.labels], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False).encode()


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Raises UserError for a manifest of another format version, or one that is not well formed."""
    try:
        fields = parse_json(text)
        version = fields["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where} has no readable manifest ({error}); repack the model") from error
    if version != FORMAT_VERSION:
        raise UserError(
            f"{where} has format version {version}, this edge-s2a reads {FORMAT_VERSION}; "
            "install the edge-s2a that packed it, or repack the model"
        )
    try:
        fields["preprocessing"] = Preprocessing(**_checked(Preprocessing, fields["preprocessing"]))
        manifest = Manifest(**_checked(Manifest, fields))
        if manifest.labels is not None and len(manifest.labels) != manifest.num_classes:
            raise ValueError(f"{len(manifest.labels)} labels for {manifest.num_classes} classes")
        if not all(type(entry["sha256"]) is str and type(entry["bytes"]) is int for entry in manifest.members.values()):
            raise ValueError("members without size or digest")
        if set(manifest.golden_optimizer) != GOLDEN_OPTIMIZER:
            raise ValueError(f"golden_optimizer is {manifest.golden_optimizer}")
        shapes = manifest.features.values()
        if any(min(shape, default=0) < 1 for shape in shapes) or sum(map(math.prod, shapes)) > MOST_FEATURES:
            raise ValueError(f"features are {str(manifest.features)[:100]}")
        if not manifest.taps or min(manifest.taps.values()) < 1 or sum(manifest.taps.values()) > MOST_TAPS:
            raise ValueError(f"taps are {str(manifest.taps)[:100]}")
        if manifest.first_block < 1:
            raise ValueError(f"first_block is {manifest.first_block}")
        if not bool(manifest.adapter) == bool(manifest.adapter_shapes) == (manifest.num_classes > 0):
            raise ValueError("adapter, its shapes and the number of classes disagree")
        if (manifest.adapter and manifest.trainable_parameters < 1) or min(manifest.preprocessing.image_size) < 1:
            raise ValueError("impossible numbers")
        return manifest
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where} has a malformed manifest ({error}); repack the model") from error


def _checked(kind: type, fields: dict[str, Any]) -> dict[str, Any]:
    expected = {field.name for field in dataclasses.fields(kind)}
    if set(fields) != expected:
        raise ValueError(f"fields {sorted(set(fields) ^ expected)} missing or unknown")
    for name, value in fields.items():
        if not has_type(kind.__annotations__[name], value):
            raise ValueError(f"{name} is {str(value)[:100]}")
    return fields


def has_type(kind: Any, value: Any) -> bool:
    """Whether a value from JSON, where tuples are lists, has the type `kind`, all its parts included."""
    parts = get_args(kind)
    match get_origin(kind):
        case types.UnionType:
            return any(has_type(part, value) for part in parts)
        case builtins.list:
            return isinstance(value, list) and all(has_type(parts[0], item) for item in value)
        case builtins.tuple:
            return isinstance(value, list) and len(value) == len(parts) and all(map(has_type, parts, value))
        case builtins.dict:
            return isinstance(value, dict) and all(has_type(parts[1], item) for item in value.values())
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf
    return kind is Any or (isinstance(value, kind) and not (kind is int and isinstance(value, bool)))
