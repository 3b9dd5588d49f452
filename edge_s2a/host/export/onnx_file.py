"""An unrolled graph as an ONNX file for inference."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.files import write_bytes
from edge_s2a.artifact.names import IMAGE
from edge_s2a.host.export.unroll import Unrolled, fold, image_input, model_bytes

# Operators that turn a frozen weight, as the artifact holds it, into float32.
DEQUANTISING = ("DequantizeLinear", "Cast")


def write_onnx_file(
    artifact: Artifact,
    graph: Unrolled,
    adapter: dict[str, np.ndarray],
    result: str,
    metadata: dict[str, object],
    output: Path,
    int8: bool,
) -> None:
    """Writes `graph` from IMAGE to the value `result`.

    Trained tensors are constants, and whatever depends on constants alone is computed beforehand. Frozen weights are
    float32, or with `int8` stay as the artifact holds them and are dequantised where they are read. The metadata of the
    file give the preprocessing, the name of the model, and `metadata` as JSON.
    """
    graph.constants |= adapter
    fold(graph, keep=DEQUANTISING if int8 else ())
    texts = {
        "preprocessing": json.dumps(dataclasses.asdict(artifact.manifest.preprocessing)),
        "model": artifact.manifest.model,
        **{name: json.dumps(value, ensure_ascii=False) for name, value in metadata.items()},
    }
    inputs, outputs = {IMAGE: image_input(artifact)}, {result: graph.values[result]}
    write_bytes(output, model_bytes(graph.nodes, inputs, outputs, graph.constants, texts))
