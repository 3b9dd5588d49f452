"""Writes a graph as an ONNX model."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge_s2a.host.graph.ir import Batch, Graph, TensorType

OPSET = 21
IR_VERSION = 10  # the newest that onnxruntime 1.19 reads


def to_onnx(graph: Graph) -> bytes:
    """The graph as a serialised ONNX model, checked by onnx.checker, nodes in the order of the graph.

    Batched dimensions are written as symbols, "batch" and "<k>*batch", for intermediate values too:
    the engine reuses a buffer in place only where it knows that sizes agree.
    """

    def value(name: str):
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
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)],
        ir_version=IR_VERSION,
        producer_name="edge-s2a",
    )  # fmt: skip
    onnx.checker.check_model(model)
    return model.SerializeToString()


def attribute(item):
    return helper.np_dtype_to_tensor_dtype(item) if isinstance(item, np.dtype) else item


def value_info(name: str, tensor_type: TensorType) -> onnx.ValueInfoProto:
    shape = [batch_symbol(d.times) if isinstance(d, Batch) else d for d in tensor_type.shape]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(tensor_type.dtype), shape)


def batch_symbol(times: int) -> str:
    return "batch" if times == 1 else f"{times}*batch"
