"""Format `onnx`: the tuned model as one ONNX file for inference."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.knowledge import Trained
from edge_s2a.artifact.names import FEATURES, LOGITS
from edge_s2a.artifact.program import INFERENCE
from edge_s2a.host.export.onnx_features import unroll_features
from edge_s2a.host.export.onnx_file import OnnxForm, write_onnx_file
from edge_s2a.host.export.unroll import Unrolled, prune, renamed, unroll


def export_onnx(
    artifact: Artifact, adapter: dict[str, np.ndarray], classes: list[str], output: Path, how: OnnxForm
) -> None:
    """Writes the graph from IMAGE, float32 (batch, 3, height, width) normalised, to LOGITS, float32 (batch, classes).
    The metadata of the file give the names of the classes."""
    write_onnx_file(artifact, unroll(artifact, INFERENCE), adapter, LOGITS, {"classes": classes}, output, how)


def export_learned_onnx(
    artifact: Artifact,
    adapter: dict[str, np.ndarray],
    weight: np.ndarray,
    bias: np.ndarray,
    classes: list[str],
    output: Path,
    how: OnnxForm,
    trained: Trained | None = None,
) -> None:
    """Writes the same graph with the classifier of a knowledge file in place of the head: logits = features weight^T +
    bias, the features being all statistics of `Manifest.taps` side by side.

    weight: float32 (classes, features), bias: float32 (classes,), both divided by the temperature. trained: answers
    beside it, from a second pass through the same frozen weights.
    """
    graph = unroll_features(artifact)
    graph.constants |= {"learned/weight": np.ascontiguousarray(weight.T), "learned/bias": bias}
    learned = LOGITS if trained is None else "learned/logits"
    graph.nodes += [
        helper.make_node("MatMul", [FEATURES, "learned/weight"], ["learned/product"]),
        helper.make_node("Add", ["learned/product", "learned/bias"], [learned]),
    ]
    if trained is not None:
        add_average(graph, renamed(unroll(artifact, INFERENCE), "trained/"), learned, trained, classes)
    graph.values[LOGITS] = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", len(bias)])
    prune(graph, LOGITS)
    write_onnx_file(artifact, graph, adapter, LOGITS, {"classes": classes}, output, how)


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
