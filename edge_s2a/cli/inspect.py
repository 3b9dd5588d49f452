"""`edge-s2a inspect`."""

from pathlib import Path
from typing import TYPE_CHECKING

from edge_s2a.cli.command import Command
from edge_s2a.cli.output import Output
from edge_s2a.options import NO_ADAPTER, InspectOptions

if TYPE_CHECKING:
    from edge_s2a.artifact.manifest import Manifest


def run(options: InspectOptions, output: Output) -> int:
    show_artifact(Path(options.artifact), output)
    return 0


def show_artifact(path: Path, output: Output) -> None:
    """Prints what the manifest says."""
    from edge_s2a.artifact.archive import Artifact
    from edge_s2a.device.data.feature_cache import code_bytes

    artifact = Artifact(path)
    manifest = artifact.manifest
    adapter = "+".join(manifest.adapter) or NO_ADAPTER
    feature_bytes = code_bytes(manifest.features)
    trainable, total = manifest.trainable_parameters, manifest.total_parameters
    height, width = manifest.preprocessing.image_size
    result = {
        "model": manifest.model,
        "adapter": adapter,
        "saved_bits": manifest.saved_bits,
        "mean_saved_bits": manifest.mean_saved_bits,
        "levels": manifest.levels,
        "weight_format": manifest.weight_format,
        "int8_layers": manifest.int8_layers,
        "num_classes": manifest.num_classes,
        "labels": manifest.labels,
        "image_size": [height, width],
        "trainable_parameters": trainable,
        "total_parameters": total,
        "saved_bytes_per_image": manifest.saved_bytes_per_image,
        "feature_bytes_per_image": feature_bytes,
        "taps": manifest.taps,
        "tap_numbers_per_image": manifest.tap_count,
        "file_bytes": artifact.file_bytes,
        "signed": artifact.signature is not None,
        "members": {name: entry["bytes"] for name, entry in manifest.members.items()},
        "format_version": manifest.format_version,
    }
    rows = [
        ("file", f"{path}, {artifact.file_bytes} bytes, format version {manifest.format_version}"),
        ("model", " ".join([manifest.model, *(f"{key}={value}" for key, value in manifest.model_kwargs.items())])),
        ("input", f"{height}x{width} RGB"),
        ("classes", classes_of(manifest)),
        ("signed", "yes; --require-signature verifies it" if artifact.signature else "no"),
        ("adapter", " and ".join(dict.fromkeys([adapter, "head"])) if manifest.can_train else adapter),
        ("trainable", f"{trainable} of {total} parameters ({100 * trainable / total:.2f} %)"),
        ("frozen weights", f"{manifest.weight_format}, {artifact.member_bytes('weights.safetensors')} bytes"),
        ("computed in int8", f"{len(manifest.int8_layers)} linear layers"),
        *(training_rows(manifest, feature_bytes) if manifest.can_train else []),
        ("taps", f"{places_of(manifest)}, {manifest.tap_count} numbers per image"),
    ]
    output.show(result, rows)


def classes_of(manifest: "Manifest") -> str:
    if not manifest.can_train:
        return "those that it learns"
    return f"{manifest.num_classes}" + (f": {', '.join(manifest.labels)}" if manifest.labels else "")


def training_rows(manifest: "Manifest", feature_bytes: int) -> list[tuple[str, str]]:
    return [
        (
            "saved tensors",
            f"{manifest.saved_bits} bits (mean {manifest.mean_saved_bits:.2f}), {manifest.levels} levels, "
            f"{manifest.saved_bytes_per_image} bytes per image",
        ),
        ("kept features", f"{feature_bytes} bytes per image" if manifest.features else "none"),
    ]


def places_of(manifest: "Manifest") -> str:
    """Where the taps are, in words."""
    names = dict.fromkeys(name.rpartition(":")[0] for name in manifest.taps)
    if all(name.endswith(":input") for name in manifest.taps):
        return f"input of {' and '.join(names)}"
    return "1 block" if len(names) == 1 else f"{len(names)} blocks"


COMMAND = Command("inspect", "show what an artifact holds", InspectOptions, run)
