"""Format `onnx-features`: what learning in one pass sees of an image, as one ONNX file."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.names import FEATURES, LOGITS, tap
from edge_s2a.artifact.program import TAPS
from edge_s2a.host.export.onnx_file import OnnxForm, write_onnx_file
from edge_s2a.host.export.unroll import Unrolled, prune, unroll


def export_onnx_features(artifact: Artifact, adapter: dict[str, np.ndarray], output: Path, how: OnnxForm) -> None:
    """Writes the graph from IMAGE, float32 (batch, 3, height, width) normalised, to FEATURES, float32 (batch, width):
    all statistics of `Manifest.taps` side by side, whose names and widths are in the metadata of the file."""
    graph = unroll_features(artifact)
    prune(graph, FEATURES)
    taps = [[name, width] for name, width in artifact.manifest.taps.items()]
    write_onnx_file(artifact, graph, adapter, FEATURES, {"taps": taps}, output, how)


def unroll_features(artifact: Artifact) -> Unrolled:
    """The program "taps" with FEATURES, and without the artifact's own LOGITS."""
    graph, taps = unroll(artifact, TAPS), artifact.manifest.taps
    graph.nodes = [node for node in graph.nodes if LOGITS not in node.output]
    graph.nodes.append(helper.make_node("Concat", [tap(name) for name in taps], [FEATURES], axis=1))
    graph.values[FEATURES] = helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["batch", sum(taps.values())])
    return graph
