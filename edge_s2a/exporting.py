"""Exports a tuned model and compares its logits with the runtime's."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edge_s2a.artifact import tensors
from edge_s2a.artifact.archive import GOLDEN
from edge_s2a.artifact.learned import Head
from edge_s2a.artifact.names import FEATURES, IMAGE, LOGITS
from edge_s2a.device.classifier import load_classifier
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.device.memory.available import parse_budget
from edge_s2a.errors import CheckError, UserError
from edge_s2a.host.export.onnx_features import export_onnx_features
from edge_s2a.host.export.onnx_file import OnnxForm
from edge_s2a.host.export.onnx_model import export_learned_onnx, export_onnx
from edge_s2a.host.export.ort_training import LABELS, export_ort_training
from edge_s2a.host.export.peft_folder import export_peft
from edge_s2a.host.export.session import plain_session
from edge_s2a.host.export.timm_weights import export_timm
from edge_s2a.host.export.torch_state import export_torch
from edge_s2a.host.golden import normalized
from edge_s2a.options import ExportOptions
from edge_s2a.system.processors import usable_cores

# Error of the logits, relative to the largest: engines sum in different orders, and float32 differs from products in
# int8 by as much as `check` tolerates. Half precision has three digits.
LARGEST_ERROR, LARGEST_ERROR_OF_FP16, LARGEST_ERROR_OF_INT8 = 1e-3, 2e-2, 0.2


def export(options: ExportOptions) -> dict[str, Any]:
    """Writes the tuned model, and compares what it computes with the runtime. What `edge_s2a.export` does."""
    artifact, output, format, int8 = Path(options.artifact), Path(options.output), options.format, options.int8
    if int8 and format not in ("onnx", "onnx-features"):
        raise UserError(f"int8 weights are for the formats onnx and onnx-features, not for {format}; leave out --int8")
    if (options.opset or options.batch) and format not in ("onnx", "onnx-features"):
        raise UserError(f"--opset and --batch are for the formats onnx and onnx-features, not for {format}")
    if options.fp16 and (int8 or format not in ("onnx", "onnx-features")):
        raise UserError("--fp16 is for the formats onnx and onnx-features with float32 weights; leave it or --int8 out")
    how = OnnxForm(int8, options.opset, options.batch, options.fp16)
    settings = EngineSettings(options.threads or usable_cores())
    classifier = load_classifier(artifact, Path(options.adapter), parse_budget("auto"), settings)
    if classifier.head is None and format == "onnx-features":
        raise UserError(
            f"{options.adapter} is an adapter, but features are what a knowledge file was learned from; give one that "
            "edge-s2a learn wrote"
        )
    if classifier.head is not None and format not in ("onnx", "onnx-features"):
        raise UserError(
            f"the classifier of a knowledge file reads several blocks, which {format} cannot hold; use --format onnx"
        )
    opened, engine = classifier.runtime.artifact, classifier.runtime.engine
    values = {name: array.copy() for name, array in engine.adapter.items()}
    golden, _ = tensors.decode(opened.read(GOLDEN), f"{GOLDEN} of {artifact}")
    image = normalized(golden[IMAGE].copy(), opened.manifest.preprocessing).numpy()
    expected = engine.taps(image).features if format == "onnx-features" else classifier.logits(image)
    if format == "onnx-features":
        export_onnx_features(opened, values, output, how)
        found = run_onnx(output, {IMAGE: image}, FEATURES, options.batch)
    elif format == "onnx":
        if classifier.head is None:
            export_onnx(opened, values, classifier.classes, output, how)
        else:
            trained = None if classifier.average is None else classifier.average.trained
            weight, bias = classifier_of(classifier.head)
            export_learned_onnx(opened, values, weight, bias, classifier.classes, output, how, trained)
        found = run_onnx(output, {IMAGE: image}, batch=options.batch)
    elif format == "ort-training":
        parameters = export_ort_training(opened, values, output)
        labels = np.zeros(len(image), np.int64)
        found = run_onnx(output / "eval_model.onnx", {IMAGE: image, LABELS: labels, **parameters})
    elif format == "peft":
        export_peft(opened, values, output)
        return {"format": format, "output": str(output), "relative_error": None}
    else:
        found = run_module((export_timm if format == "timm" else export_torch)(opened, values, output), image)
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    is_int8 = bool(opened.manifest.int8_layers) and format in ("timm", "torch")
    limit = LARGEST_ERROR_OF_FP16 if options.fp16 else LARGEST_ERROR_OF_INT8 if is_int8 else LARGEST_ERROR
    if not error <= limit:
        raise CheckError(f"results of {output} differ from the runtime's by {error:.1e} of the largest; do not use it")
    return {"format": format, "output": str(output), "relative_error": error}


def classifier_of(head: Head) -> tuple[np.ndarray, np.ndarray]:
    """(weight float32 (classes, features), bias float32 (classes,)) of logits."""
    return head.weight / np.float32(head.temperature), head.bias / np.float32(head.temperature)


def run_onnx(path: Path, inputs: dict[str, np.ndarray], result: str = LOGITS, batch: int | None = None) -> np.ndarray:
    """The result for all images, of which a model of a fixed `batch` takes so many at once."""
    if batch is not None:
        image = inputs[IMAGE]
        filled = np.resize(image, (-(-len(image) // batch) * batch, *image.shape[1:]))
        parts = [
            run_onnx(path, {IMAGE: filled[start : start + batch]}, result) for start in range(0, len(filled), batch)
        ]
        return np.concatenate(parts)[: len(image)]
    session = plain_session(str(path))
    known = {entry.name for entry in session.get_inputs()}
    return session.run([result], {name: array for name, array in inputs.items() if name in known})[0]


def run_module(module: nn.Module, image: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return module.eval()(torch.from_numpy(image)).numpy()
