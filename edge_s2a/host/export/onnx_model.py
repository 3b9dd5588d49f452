"""Format `onnx`: the tuned model as one ONNX file for inference."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.files import write_bytes
from edge_s2a.artifact.knowledge import Trained
from edge_s2a.artifact.names import IMAGE, LOGITS, tap
from edge_s2a.artifact.program import INFERENCE, TAPS
from edge_s2a.host.export.unroll import Unrolled, fold, image_input, model_bytes, prune, renamed, unroll

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
    write_model(artifact, unroll(artifact, INFERENCE), adapter, classes, output, int8)


def export_learned_onnx(
    artifact: Artifact,
    adapter: dict[str, np.ndarray],
    weight: np.ndarray,
    bias: np.ndarray,
    classes: list[str],
    output: Path,
    int8: bool,
    trained: Trained | None = None,
) -> None:
    """Writes the same graph with the classifier of a knowledge file in place of the head: logits = features weight^T +
    bias, the features being all statistics of `Manifest.taps` side by side.

    weight: float32 (classes, features), bias: float32 (classes,), both divided by the temperature. trained: answers
    beside it, from a second pass through the same frozen weights.
    """
    graph = unroll(artifact, TAPS)
    graph.constants |= {"learned/weight": np.ascontiguousarray(weight.T), "learned/bias": bias}
    statistics = [tap(name) for name in artifact.manifest.taps]
    # The artifact's own head may have made LOGITS.
    graph.nodes = [node for node in graph.nodes if LOGITS not in node.output]
    learned = LOGITS if trained is None else "learned/logits"
    graph.nodes += [
        helper.make_node("Concat", statistics, ["learned/features"], axis=1),
        helper.make_node("MatMul", ["learned/features", "learned/weight"], ["learned/product"]),
        helper.make_node("Add", ["learned/product", "learned/bias"], [learned]),
    ]
    if trained is not None:
        add_average(graph, renamed(unroll(artifact, INFERENCE), "trained/"), learned, trained, classes)
    graph.values[LOGITS] = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", len(bias)])
    prune(graph, LOGITS)
    write_model(artifact, graph, adapter, classes, output, int8)


def add_average(graph: Unrolled, second: Unrolled, learned: str, trained: Trained, classes: list[str]) -> None:
    """Appends a second pass, and the average of its logits with the values `learned` (edge_s2a.device.average)."""
    graph.nodes += second.nodes
    graph.values |= second.values
    graph.frozen |= second.frozen
    graph.constants |= second.constants | {f"trained/{name}": array for name, array in trained.adapter.items()}
    graph.constants |= {
        "average/order": np.array([trained.classes.index(name) for name in classes]),
        "average/learned_share": np.array(1 - trained.share, np.float32),
        "average/trained_share": np.array(trained.share, np.float32),
    }
    graph.nodes += [
        helper.make_node("LogSoftmax", [learned], ["average/learned"], axis=-1),
        helper.make_node("Mul", ["average/learned", "average/learned_share"], ["average/first"]),
        helper.make_node("Gather", [f"trained/{LOGITS}", "average/order"], ["average/logits"], axis=1),
        helper.make_node("LogSoftmax", ["average/logits"], ["average/trained"], axis=-1),
        helper.make_node("Mul", ["average/trained", "average/trained_share"], ["average/second"]),
        helper.make_node("Add", ["average/first", "average/second"], [LOGITS]),
    ]


def write_model(
    artifact: Artifact,
    graph: Unrolled,
    adapter: dict[str, np.ndarray],
    classes: list[str],
    output: Path,
    int8: bool,
) -> None:
    graph.constants |= adapter
    fold(graph, keep=DEQUANTISING if int8 else ())
    metadata = {
        "classes": json.dumps(classes, ensure_ascii=False),
        "preprocessing": json.dumps(dataclasses.asdict(artifact.manifest.preprocessing)),
        "model": artifact.manifest.model,
    }
    inputs, outputs = {IMAGE: image_input(artifact)}, {LOGITS: graph.values[LOGITS]}
    write_bytes(output, model_bytes(graph.nodes, inputs, outputs, graph.constants, metadata))
