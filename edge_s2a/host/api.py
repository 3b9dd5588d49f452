"""Packs what the options say."""

from pathlib import Path

from edge_s2a.artifact.manifest import Manifest
from edge_s2a.host.adapters.registry import parse_adapter
from edge_s2a.host.pack import Options, package
from edge_s2a.options import PackOptions


def pack(options: PackOptions) -> Manifest:
    """What `edge_s2a.pack` does."""
    what = Options(
        model_name=options.model,
        num_classes=options.class_count,
        labels=list(options.labels) if options.labels else None,
        weights=None if options.weights is None else Path(options.weights),
        pretrained=options.pretrained,
        model_kwargs=options.model_kwargs or {},
        image_size=options.image_size,
        mean=None if options.mean is None else tuple(options.mean),
        std=None if options.std is None else tuple(options.std),
        adapter_kinds=parse_adapter(options.adapter),
        saved_bits=str(options.saved_bits),
        levels=options.levels,
        calibration=None if options.calibration is None else Path(options.calibration),
        weight_format=options.weight_format,
        compute=options.compute,
        seed=options.seed,
        sign=None if options.sign is None else Path(options.sign),
    )
    return package(what, Path(options.output))
