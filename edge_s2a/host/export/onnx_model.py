"""Format `onnx`: the tuned model as one ONNX file for inference."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.files import write_bytes
from edge_s2a.artifact.names import IMAGE, LOGITS
from edge_s2a.host.export.unroll import fold, image_input, model_bytes, unroll

# Operators that turn a frozen weight, as the artifact holds it, into float32.
DEQUANTISING = ("DequantizeLinear", "Cast")


def export_onnx(
    artifact: Artifact, adapter: dict[str, np.ndarray], classes: list[str], output: Path, int8: bool
) -> None:
    """Writes the graph from IMAGE, float32 (batch, 3, height, width) normalised, to LOGITS, float32 (batch, classes).

    Trained tensors are constants, and whatever depends on constants alone is computed beforehand. Frozen weights are
    float32, or with `int8` stay as the artifact holds them and are dequantised where they are read. The metadata of the
    file give the names of the classes and the preprocessing.
    """
    graph = unroll(artifact, "inference")
    graph.constants |= adapter
    fold(graph, keep=DEQUANTISING if int8 else ())
    metadata = {
        "classes": json.dumps(classes, ensure_ascii=False),
        "preprocessing": json.dumps(dataclasses.asdict(artifact.manifest.preprocessing)),
        "model": artifact.manifest.model,
    }
    inputs, outputs = {IMAGE: image_input(artifact)}, {LOGITS: graph.values[LOGITS]}
    write_bytes(output, model_bytes(graph.nodes, inputs, outputs, graph.constants, metadata))
