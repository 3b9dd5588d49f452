"""Writes a graph as an ONNX model."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge_s2a.artifact.operators import is_allowed
from edge_s2a.host.graph.ir import Batch, Graph, TensorType
from edge_s2a.host.targets.onnxruntime.rules import IR_VERSION, OPSETS

OPSET_IMPORTS = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]


def to_onnx(graph: Graph) -> bytes:
    """The graph as a serialised ONNX model, checked by onnx.checker, nodes in the order of the graph.

    Batched dimensions are written as symbols, "batch" and "<k>*batch", for intermediate values too:
    the engine reuses a buffer in place only where it knows that sizes agree. Raises AssertionError for an operator that
    no artifact may hold: a lowering cannot write one, so it comes from a pass.
    """
    for node in graph.nodes:
        if not is_allowed(node.operator, node.domain):
            raise AssertionError(
                f"the graph {graph.name} holds the ONNX operator {node.domain}:{node.operator}, which no artifact may "
                "hold; add it to edge_s2a/artifact/operators.py"
            )

    def value(name: str) -> onnx.ValueInfoProto:
        return value_info(name, graph.types[name])

    produced = [name for node in graph.nodes for name in node.outputs if name]
    outputs = set(graph.outputs)
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node(
                    node.operator, node.inputs, node.outputs, name=node.outputs[0], domain=node.domain,
                    **{key: attribute(item) for key, item in node.attributes.items()},
                )
                for node in graph.nodes
            ],
            graph.name,
            [value(name) for name in graph.inputs],
            [value(name) for name in graph.outputs],
            [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
            value_info=[value(name) for name in produced if name not in outputs],
        ),
        opset_imports=OPSET_IMPORTS,
        ir_version=IR_VERSION,
        producer_name="edge-s2a",
    )  # fmt: skip
    onnx.checker.check_model(model)
    return model.SerializeToString()


def attribute(item: Any) -> Any:
    """A type as the number that ONNX has for it; anything else as it is."""
    return helper.np_dtype_to_tensor_dtype(item) if isinstance(item, np.dtype) else item


def value_info(name: str, tensor_type: TensorType) -> onnx.ValueInfoProto:
    shape = [batch_symbol(d.times) if isinstance(d, Batch) else d for d in tensor_type.shape]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(tensor_type.dtype), shape)


def batch_symbol(times: int) -> str:
    return "batch" if times == 1 else f"{times}*batch"
