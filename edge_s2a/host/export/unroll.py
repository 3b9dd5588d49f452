"""A program of an artifact as one ONNX graph: its calls written out one after the other."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edge_s2a.artifact import program, tensors
from edge_s2a.artifact.archive import CONSTANTS, PROGRAM, WEIGHTS, Artifact, graph_member
from edge_s2a.artifact.names import IMAGE
from edge_s2a.errors import UserError
from edge_s2a.host.export.session import plain_session
from edge_s2a.host.targets.onnxruntime.emit import OPSET_IMPORTS
from edge_s2a.host.targets.onnxruntime.rules import IR_VERSION

LARGEST_MODEL_BYTES = 2**31 - 1  # of a protobuf message


@dataclass
class Unrolled:
    """Nodes in the order in which they run, and the values they read and make, by name."""

    nodes: list[NodeProto]
    constants: dict[str, np.ndarray]  # values that nodes read and that never change
    frozen: set[str]  # those of the constants that are weights
    values: dict[str, ValueInfoProto]  # types and shapes of everything


def unroll(artifact: Artifact, name: str) -> Unrolled:
    """The program `name`, "training", "inference" or "taps", unrolled. It reads the image, even if the artifact keeps
    features, and the adapter's tensors, which are not among the constants."""
    where = str(artifact.path)
    programs = program.from_json(artifact.read(PROGRAM), artifact.graph_count, f"{PROGRAM} of {where}")
    weights, _ = tensors.decode(artifact.read(WEIGHTS), f"{WEIGHTS} of {where}")
    constants, _ = tensors.decode(artifact.read(CONSTANTS), f"{CONSTANTS} of {where}")
    features = [] if name == program.TAPS else programs.get(program.FEATURES, [])
    calls = [*features, *programs[name]]
    graphs = {call.graph: onnx.load_from_string(artifact.read(graph_member(call.graph))).graph for call in calls}
    unrolled = Unrolled([], weights | constants, set(weights), {})
    for number, call in enumerate(calls):
        add_call(unrolled, graphs[call.graph], call, f"call{number}")
    read = {value for node in unrolled.nodes for value in node.input}
    unrolled.constants = {value: array for value, array in unrolled.constants.items() if value in read}
    return unrolled


def add_call(unrolled: Unrolled, graph: GraphProto, call: program.Call, prefix: str) -> None:
    """Appends one run of `graph`; values inside it get names with `prefix`."""
    names = dict(zip((value.name for value in graph.input), call.inputs, strict=True))
    names |= dict(zip((value.name for value in graph.output), call.outputs, strict=True))

    def named(value: str) -> str:
        return names.get(value, f"{prefix}/{value}") if value else ""

    for initializer in graph.initializer:
        unrolled.constants[named(initializer.name)] = numpy_helper.to_array(initializer)
    for value in [*graph.input, *graph.output, *graph.value_info]:
        unrolled.values[named(value.name)] = renamed_value(value, named)
    unrolled.nodes += [renamed_node(node, named) for node in graph.node]


def renamed_node(node: NodeProto, named: Callable[[str], str]) -> NodeProto:
    """A copy in which everything has its new name."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name = named(node.name)
    copy.input[:] = map(named, node.input)
    copy.output[:] = map(named, node.output)
    return copy


def renamed_value(value: ValueInfoProto, named: Callable[[str], str]) -> ValueInfoProto:
    """A copy that has its new name."""
    copy = ValueInfoProto()
    copy.CopyFrom(value)
    copy.name = named(value.name)
    return copy


def renamed(unrolled: Unrolled, prefix: str) -> Unrolled:
    """The same graph with `prefix` before the name of every value but the image and the frozen weights, so that it can
    stand beside another one of the same artifact."""

    def named(value: str) -> str:
        return value if not value or value == IMAGE or value in unrolled.frozen else prefix + value

    nodes = [renamed_node(node, named) for node in unrolled.nodes]
    values = {named(name): renamed_value(value, named) for name, value in unrolled.values.items()}
    constants = {named(name): array for name, array in unrolled.constants.items()}
    return Unrolled(nodes, constants, unrolled.frozen, values)


def fold(unrolled: Unrolled, keep: tuple[str, ...] = ()) -> None:
    """Computes, with the engine, what depends on constants alone. Operators of the kinds `keep`, and what reads their
    results, stay."""
    known = set(unrolled.constants)
    folded = []
    for node in unrolled.nodes:
        if node.op_type not in keep and all(value in known for value in node.input if value):
            known.update(node.output)
            folded.append(node)
    gone = {id(node) for node in folded}
    unrolled.nodes = [node for node in unrolled.nodes if id(node) not in gone]
    read = {value for node in unrolled.nodes for value in node.input}
    results = [value for node in folded for value in node.output if value in read]
    # One at a time, each from what it depends on: the results of all weights at once would need twice the memory.
    made_by = {value: node for node in folded for value in node.output}
    for result in results:
        nodes: list[NodeProto] = []
        add_ancestors(result, made_by, nodes)
        inputs = {value for node in nodes for value in node.input if value in unrolled.constants}
        constants = {value: unrolled.constants[value] for value in inputs}
        session = plain_session(model_bytes(nodes, {}, {result: unrolled.values[result]}, constants))
        (unrolled.constants[result],) = session.run([result], {})
    unrolled.constants = {value: array for value, array in unrolled.constants.items() if value in read}


def prune(unrolled: Unrolled, output: str) -> None:
    """Leaves out the nodes that `output` does not depend on."""
    made_by = {value: node for node in unrolled.nodes for value in node.output}
    nodes: list[NodeProto] = []
    add_ancestors(output, made_by, nodes)
    unrolled.nodes = nodes


def add_ancestors(value: str, made_by: dict[str, NodeProto], nodes: list[NodeProto]) -> None:
    """Appends the nodes that `value` depends on, each after those that it reads from."""
    node = made_by.get(value)
    if node is None or node in nodes:
        return
    for source in node.input:
        add_ancestors(source, made_by, nodes)
    nodes.append(node)


def model_bytes(
    nodes: list[NodeProto],
    inputs: dict[str, ValueInfoProto],
    outputs: dict[str, ValueInfoProto],
    constants: dict[str, np.ndarray],
    metadata: dict[str, str] | None = None,
) -> bytes:
    """A serialised ONNX model. Raises UserError if it would be larger than an ONNX file can be."""
    if sum(array.nbytes for array in constants.values()) > LARGEST_MODEL_BYTES:
        raise UserError("the model takes more than the 2 GB that one ONNX file can hold; export it with --int8")
    initializers: list[TensorProto] = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "edge-s2a", [*inputs.values()], [*outputs.values()], initializers)
    model = helper.make_model(graph, opset_imports=OPSET_IMPORTS, ir_version=IR_VERSION, producer_name="edge-s2a")
    helper.set_model_props(model, metadata or {})
    return model.SerializeToString()


def image_input(artifact: Artifact) -> ValueInfoProto:
    """float32 (batch, 3, height, width), normalised."""
    size = artifact.manifest.preprocessing.image_size
    return helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, ["batch", 3, *size])
