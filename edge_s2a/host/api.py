"""The host side as a library: `pack`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_s2a.artifact.manifest import Manifest
from edge_s2a.errors import UserError
from edge_s2a.host.adapters.registry import parse_adapter
from edge_s2a.host.pack import Options, package


def pack(
    model: str,
    output: str | os.PathLike,
    *,
    num_classes: int | None = None,
    labels: Sequence[str] | None = None,
    weights: str | os.PathLike | None = None,
    pretrained: bool = False,
    model_kwargs: dict[str, Any] | None = None,
    image_size: int | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    adapter: str = "bias",
    saved_bits: int | str = 4,
    levels: str = "best",
    calibration: str | os.PathLike | None = None,
    weight_format: str = "int8",
    compute: str = "fp32",
    seed: int = 0,
    sign: str | os.PathLike | None = None,
) -> Manifest:
    """Packs the timm model `model` into the training artifact `output`; what `edge-s2a pack` does. Returns what the
    artifact says of itself: trained and total parameters, bytes saved per image for the backward pass, and more.

    num_classes or labels: those of the new head. weights: a safetensors file, or a torch file of tensors; pretrained:
    timm's own, which are downloaded; without either they are random. model_kwargs: passed to timm. adapter: one or more
    of bias, prompt, side, lowrank, joined by "+" and with options as in "lowrank:rank=4"; s2a for bias+prompt+side, or
    head. saved_bits: 2, 4, 8, 32 or "auto", which needs calibration, a folder of images of your kind. levels:
    "uniform", "fitted" or "best". weight_format: "fp32", "fp16", "int8" or "int4". compute: "fp32", "int8" or "auto".
    sign: a PEM file with an Ed25519 private key.

    >>> import edge_s2a
    >>> manifest = edge_s2a.pack("vit_tiny_patch16_224", "vit.s2a", labels=["cat", "dog"])    # doctest: +SKIP
    >>> manifest.trainable_parameters, manifest.total_parameters                             # doctest: +SKIP

    Raises UserError for anything that the caller can correct.
    """
    if str(saved_bits) == "auto" and not calibration:
        # Measured: bits allocated on synthetic images err more on photos than 4 bits for all.
        raise UserError("--saved-bits auto measures on images of your kind; give a folder of them as --calibration")
    if num_classes is None:
        if labels is None:
            raise UserError("the number of classes is missing; give --num-classes N or --labels FILE")
        num_classes = len(labels)
    what = Options(
        model_name=model,
        num_classes=num_classes,
        labels=list(labels) if labels else None,
        weights=None if weights is None else Path(weights),
        pretrained=pretrained,
        model_kwargs=model_kwargs or {},
        image_size=image_size,
        mean=mean,
        std=std,
        adapter_kinds=parse_adapter(adapter),
        saved_bits=str(saved_bits),
        levels=levels,
        calibration=None if calibration is None else Path(calibration),
        weight_format=weight_format,
        compute=compute,
        seed=seed,
        sign=None if sign is None else Path(sign),
    )
    return package(what, Path(output))
