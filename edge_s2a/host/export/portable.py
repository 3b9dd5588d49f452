"""Makes an ONNX model that other engines read: standard operators, explicit attributes, the lowest opset it can have.

An artifact's graphs are for onnxruntime: opset 21, some operators of its own, and whatever it infers by itself.
TensorRT, OpenVINO, OpenCV and others know older opsets, nothing of com.microsoft, and want a convolution to say its
kernel.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, defs, helper, numpy_helper

from edge_s2a.errors import UserError

LOWEST_OPSET, HIGHEST_OPSET = 17, 21  # 17 has LayerNormalization
IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10}  # the oldest that holds the types of an opset
Nodes = list[NodeProto]
REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare")


class Constants:
    """The initializers of a model, and names for new values."""

    def __init__(self, model: ModelProto):
        self._found = {tensor.name: tensor for tensor in model.graph.initializer}
        self._model, self._numbers = model, itertools.count()

    def get(self, name: str) -> np.ndarray | None:
        tensor = self._found.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def shape(self, name: str) -> list[int] | None:
        tensor = self._found.get(name)
        return None if tensor is None else list(tensor.dims)

    def add(self, array: np.ndarray) -> str:
        tensor = numpy_helper.from_array(array, self.name("constant"))
        self._model.graph.initializer.append(tensor)
        self._found[tensor.name] = tensor
        return tensor.name

    def name(self, stem: str) -> str:
        return f"portable/{stem}_{next(self._numbers)}"


def portable(model: ModelProto, opset: int | None = None, batch: int | None = None) -> ModelProto:
    """The same computation in standard operators. opset: that it must have, by default the lowest that it can have.
    batch: a fixed number of images, by default any. Raises UserError where that cannot be."""
    ranks = ranks_of(model)
    constants = Constants(model)
    nodes = [made for node in model.graph.node for made in standard(node, constants, ranks)]
    shapes = shapes_of(model)
    nodes = [explicit(node, constants, shapes) for node in nodes]
    wanted = [opset] if opset is not None else range(LOWEST_OPSET, HIGHEST_OPSET + 1)
    problem = ""
    for version in wanted:
        candidate, problem = at_opset(model, nodes, version)
        if candidate is not None:
            return candidate if batch is None else with_batch(candidate, batch)
    raise UserError(f"opset {opset or HIGHEST_OPSET} cannot hold this model: {problem}; give another --opset")


# -- standard operators --------------------------------------------------------------------------------


def standard(node: NodeProto, constants: Constants, ranks: dict[str, int]) -> Iterator[NodeProto]:
    """Yields standard nodes in place of one of com.microsoft. Raises UserError for one that has none."""
    if not node.domain:
        yield node
    elif node.op_type == "FusedMatMul":
        yield from fused_matmul(node, constants, ranks)
    elif node.op_type == "MatMulIntegerToFloat":
        yield from integer_matmul(node, constants)
    else:
        raise UserError(f"the model has {node.domain}.{node.op_type}, which has no standard form; report this")


def fused_matmul(node: NodeProto, constants: Constants, ranks: dict[str, int]) -> Iterator[NodeProto]:
    """alpha * A B, either of them transposed in its last two axes."""
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    factors = []
    for name, flag in zip(node.input, ("transA", "transB"), strict=True):
        if attributes.get(flag):
            turned, rank = constants.name("transposed"), ranks[name]
            axes = [*range(rank - 2), rank - 1, rank - 2]
            yield helper.make_node("Transpose", [name], [turned], perm=axes)
            factors.append(turned)
        else:
            factors.append(name)
    alpha = attributes.get("alpha", 1.0)
    product = node.output[0] if alpha == 1 else constants.name("product")
    yield helper.make_node("MatMul", factors, [product])
    if alpha != 1:
        yield helper.make_node("Mul", [product, constants.add(np.array(alpha, np.float32))], [node.output[0]])


def integer_matmul(node: NodeProto, constants: Constants) -> Iterator[NodeProto]:
    """(A - a_zero) (B - b_zero) a_scale b_scale, plus a bias if there is one."""
    a, b, a_scale, b_scale, a_zero, b_zero, bias = [*node.input, "", "", ""][:7]
    zeros = [a_zero, b_zero] if b_zero else [a_zero] if a_zero else []
    whole, floating, scale = (constants.name(stem) for stem in ("whole", "floating", "scale"))
    yield helper.make_node("MatMulInteger", [a, b, *zeros], [whole])
    yield helper.make_node("Cast", [whole], [floating], to=TensorProto.FLOAT)
    yield helper.make_node("Mul", [a_scale, b_scale], [scale])
    product = constants.name("product") if bias else node.output[0]
    yield helper.make_node("Mul", [floating, scale], [product])
    if bias:
        yield helper.make_node("Add", [product, bias], [node.output[0]])


# -- explicit attributes -------------------------------------------------------------------------------


def explicit(node: NodeProto, constants: Constants, shapes: dict[str, list[int]]) -> NodeProto:
    """The node with everything that engines may otherwise have to infer of a convolution."""
    if node.op_type not in ("Conv", "ConvTranspose"):
        return node
    kernel = (constants.shape(node.input[1]) or shapes[node.input[1]])[2:]
    said = {entry.name for entry in node.attribute}
    sides = len(kernel)
    usual = {
        "kernel_shape": kernel,
        "strides": [1] * sides,
        "pads": [0] * (2 * sides),
        "dilations": [1] * sides,
        "group": 1,
    }
    if "auto_pad" in said:
        del usual["pads"]
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.attribute.extend(helper.make_attribute(name, value) for name, value in usual.items() if name not in said)
    return copy


# -- the opset -----------------------------------------------------------------------------------------


def at_opset(model: ModelProto, nodes: Nodes, opset: int) -> tuple[ModelProto | None, str]:
    """(the model at an opset, ""), or (None, why it cannot have it)."""
    if opset not in IR_VERSIONS:
        return None, f"opsets go from {LOWEST_OPSET} to {HIGHEST_OPSET}"
    candidate = ModelProto()
    candidate.CopyFrom(model)
    constants = Constants(candidate)
    del candidate.graph.node[:]
    for node in nodes:
        for made in converted(node, constants, opset):
            if problem := misfit(made, opset):
                return None, problem
            candidate.graph.node.append(made)
    del candidate.opset_import[:]
    candidate.opset_import.append(helper.make_opsetid("", opset))
    candidate.ir_version = IR_VERSIONS[opset]
    read = {name for node in candidate.graph.node for name in node.input}
    kept = [tensor for tensor in candidate.graph.initializer if tensor.name in read]
    del candidate.graph.initializer[:]
    candidate.graph.initializer.extend(kept)
    del candidate.graph.value_info[:]
    try:
        onnx.checker.check_model(candidate, full_check=True)
    except Exception as error:  # checker and shape inference raise errors of several kinds
        return None, str(error).splitlines()[0]
    return candidate, ""


def converted(node: NodeProto, constants: Constants, opset: int) -> Iterator[NodeProto]:
    """Yields the node as an older opset writes it, where that is another way."""
    if node.op_type in REDUCTIONS and opset < 18 and len(node.input) > 1:
        axes = constants.get(node.input[1])
        if axes is not None:
            yield changed(node, inputs=node.input[:1], added={"axes": axes.tolist()}, removed={"noop_with_empty_axes"})
            return
    if node.op_type == "Split" and opset < 18:
        yield changed(node, removed={"num_outputs"})
        return
    if node.op_type == "Gelu" and opset < 20:
        yield from gelu(node, constants)
        return
    yield node


def changed(
    node: NodeProto,
    inputs: list[str] | None = None,
    added: dict[str, object] | None = None,
    removed: set[str] | None = None,
) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    if inputs is not None:
        copy.input[:] = inputs
    kept = [entry for entry in node.attribute if entry.name not in (removed or set())]
    del copy.attribute[:]
    copy.attribute.extend(kept)
    copy.attribute.extend(helper.make_attribute(name, value) for name, value in (added or {}).items())
    return copy


def gelu(node: NodeProto, constants: Constants) -> Iterator[NodeProto]:
    """x (1 + erf(x / sqrt 2)) / 2, or its approximation by a hyperbolic tangent."""
    (x,), (y,) = node.input, node.output
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}

    def constant(value: float) -> str:
        return constants.add(np.array(value, np.float32))

    def step(operator: str, *inputs: str, output: str | None = None) -> NodeProto:
        return helper.make_node(operator, list(inputs), [output or constants.name("gelu")])

    nodes: Nodes = []

    def push(operator: str, *inputs: str, output: str | None = None) -> str:
        nodes.append(step(operator, *inputs, output=output))
        return nodes[-1].output[0]

    if attributes.get("approximate", b"none") == b"tanh":
        cube = push("Mul", push("Mul", x, x), x)
        inner = push("Add", x, push("Mul", cube, constant(0.044715)))
        bent = push("Tanh", push("Mul", inner, constant(math.sqrt(2 / math.pi))))
    else:
        bent = push("Erf", push("Mul", x, constant(math.sqrt(0.5))))
    push("Mul", push("Mul", x, constant(0.5)), push("Add", bent, constant(1.0)), output=y)
    yield from nodes


def misfit(node: NodeProto, opset: int) -> str:
    """Why an opset does not have this node; "" if it does."""
    try:
        schema = defs.get_schema(node.op_type, opset, "")
    except defs.SchemaError:
        return f"it has no operator {node.op_type}"
    unknown = {entry.name for entry in node.attribute} - set(schema.attributes)
    if unknown:
        return f"its {node.op_type} has no {', '.join(sorted(unknown))}"
    if not schema.min_input <= len(node.input) <= schema.max_input:
        return f"its {node.op_type} takes no {len(node.input)} inputs"
    return ""


# -- shapes --------------------------------------------------------------------------------------------


def shapes_of(model: ModelProto) -> dict[str, list[int]]:
    """Sizes of the values whose shapes are told; 0 for one that is not."""
    graph = model.graph
    return {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.HasField("shape")
    } | {tensor.name: list(tensor.dims) for tensor in graph.initializer}


def ranks_of(model: ModelProto) -> dict[str, int]:
    return {name: len(shape) for name, shape in shapes_of(model).items()}


def with_batch(model: ModelProto, batch: int) -> ModelProto:
    """The model for so many images at once."""
    for value in (*model.graph.input, *model.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == "batch":
                dimension.dim_value = batch
    return model
