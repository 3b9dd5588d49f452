"""An unrolled graph as an ONNX file for inference."""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.files import write_bytes
from edge_s2a.artifact.names import IMAGE
from edge_s2a.host.export.half import half_precision
from edge_s2a.host.export.portable import portable
from edge_s2a.host.export.unroll import Unrolled, fold, image_input, model_bytes

# Operators that turn a frozen weight, as the artifact holds it, into float32.
DEQUANTISING = ("DequantizeLinear", "Cast")


class OnnxForm(NamedTuple):
    """How a model is written."""

    int8: bool = False  # frozen weights as the artifact holds them
    opset: int | None = None  # None: the lowest that the model can have
    batch: int | None = None  # None: any number of images
    fp16: bool = False  # compute in half precision


def write_onnx_file(
    artifact: Artifact,
    graph: Unrolled,
    adapter: dict[str, np.ndarray],
    result: str,
    metadata: dict[str, object],
    output: Path,
    how: OnnxForm,
) -> None:
    """Writes `graph` from IMAGE to the value `result`.

    Trained tensors are constants, and whatever depends on constants alone is computed beforehand. Frozen weights are
    float32, or with `how.int8` stay as the artifact holds them and are dequantised where they are read. The metadata of
    the file give the preprocessing, the name of the model, and `metadata` as JSON. Raises UserError for an opset that
    cannot hold the graph.
    """
    graph.constants |= adapter
    fold(graph, keep=DEQUANTISING if how.int8 else ())
    texts = {
        "preprocessing": json.dumps(dataclasses.asdict(artifact.manifest.preprocessing)),
        "model": artifact.manifest.model,
        **{name: json.dumps(value, ensure_ascii=False) for name, value in metadata.items()},
    }
    inputs, outputs = {IMAGE: image_input(artifact)}, {result: graph.values[result]}
    read = {value for node in graph.nodes for value in node.input}
    told = [value for name, value in graph.values.items() if name in read and name not in graph.constants]
    model = onnx.load_from_string(model_bytes(graph.nodes, inputs, outputs, graph.constants, texts))
    model.graph.value_info.extend(value for value in told if value.name != IMAGE)
    made = portable(model, how.opset, how.batch)
    write_bytes(output, (half_precision(made) if how.fp16 else made).SerializeToString())
