"""Makes a model that computes in half precision between inputs and outputs in float32, as TensorRT and GPUs like it."""

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edge_s2a.errors import UserError

LARGEST = float(np.finfo(np.float16).max)
HALF = "/half"
IN_INT8 = {"QuantizeLinear", "DequantizeLinear", "MatMulInteger"}


def half_precision(model: ModelProto) -> ModelProto:
    """The same graph with float16 constants and values; images come and results go in float32. LayerNormalization adds
    up in float32 all the same, as its definition says. Raises UserError for a model that computes in int8."""
    if IN_INT8.intersection(node.op_type for node in model.graph.node):
        raise UserError(
            "the model computes in int8, whose scales are float32; leave --fp16 out, or repack with --compute fp32"
        )
    made = ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = np.clip(numpy_helper.to_array(tensor), -LARGEST, LARGEST).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    outside = {value.name for value in (*graph.input, *graph.output)}
    nodes: list[NodeProto] = []
    for node in graph.node:
        node.input[:] = [name + HALF if name in outside else name for name in node.input]
        node.output[:] = [name + HALF if name in outside else name for name in node.output]
        if node.op_type == "Cast":
            for entry in node.attribute:
                if entry.name == "to" and entry.i == TensorProto.FLOAT:
                    entry.i = TensorProto.FLOAT16
        nodes.append(node)
    casts_in = [cast(value.name, value.name + HALF, TensorProto.FLOAT16) for value in graph.input]
    casts_out = [cast(value.name + HALF, value.name, TensorProto.FLOAT) for value in graph.output]
    kept = [*casts_in, *nodes, *casts_out]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)
    return made


def cast(source: str, result: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [result], to=kind)
