"""Lowers a captured torch computation to ONNX operators: one function for each ATen operator.

Chosen for memory: views are Reshape (which the engine aliases), transposes disappear into the products
that read them, and a frozen weight is dequantised anew before each use, so no float copy of it outlives
its product.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import SymInt, Tensor, fx

from edge_s2a.artifact.names import IMAGE
from edge_s2a.errors import UserError
from edge_s2a.host.graph.ir import UINT8, VIEW, Batch, Dimension, Graph, Node, TensorType
from edge_s2a.host.graph.lowerings import LOWERINGS
from edge_s2a.host.graph.lowerings.table import DTYPES, FLOAT32, INT64, tensor_type
from edge_s2a.host.int4 import ZERO
from edge_s2a.host.trace.capture import Captured
from edge_s2a.host.weights import FrozenWeights

aten = torch.ops.aten

# Computed constants of more bytes go to the weights, which the device maps instead of holding them in memory.
LARGEST_CONSTANT_BYTES = 4096
VIEWS = {
    aten.t.default, aten.transpose.int, aten.permute.default, aten.view.default, aten._unsafe_view.default,
    aten.reshape.default, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.detach.default,
    aten.alias.default, aten.expand.default, aten.clone.default,
}  # fmt: skip


def lower(
    captured: Captured,
    name: str,
    input_names: list[str],
    output_names: list[str],
    weights: FrozenWeights,
    parameter_names: dict[int, str],
) -> Graph:
    """The captured computation as a graph of ONNX operators.

    input_names and output_names go with the placeholders and results of the captured graph in order.
    The arrays of `weights` that the graph reads become inputs after them. parameter_names: id of a
    captured torch tensor -> its name in `weights`. Raises UserError for an operator without a lowering.
    """
    lowering = Lowering(captured, weights, parameter_names)
    placeholders = [node for node in captured.graph.nodes if node.op == "placeholder"]
    for node, input_name in zip(placeholders, input_names, strict=True):
        lowering.declare(input_name, node.meta["val"])
        lowering.values[node] = input_name
    output_node = next(node for node in captured.graph.nodes if node.op == "output")
    results = output_node.args[0]
    needed = needed_nodes(captured.graph)
    for node in captured.graph.nodes:
        if node.op == "get_attr":
            lowering.folded[node] = captured.constants[node.target]
        elif node.op == "call_function" and node in needed:
            lowering.lower_call(node)
        if node is results[0]:
            lowering.is_backward = True
    lowering.name_outputs([lowering.value_of(result) for result in results], output_names)
    inputs = input_names + list(lowering.used_weights)
    return Graph(name, inputs, output_names, lowering.nodes, lowering.constants, lowering.types)


class Lowering:
    """The state of one lowering: values by torch node, and the graph that grows."""

    def __init__(self, captured: Captured, weights: FrozenWeights, parameter_names: dict[int, str]):
        self.captured = captured
        self.weights = weights
        self.parameter_names = parameter_names
        self.values: dict[fx.Node, Any] = {}
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.types: dict[str, TensorType] = {}
        self.used_weights: dict[str, None] = {}
        # value -> the value it is the matrix transpose of, as long as nobody needs it in memory
        self.transposed: dict[str, str] = {}
        # value -> the matrix it repeats for each image, likewise; products broadcast it instead
        self.expanded: dict[str, str] = {}
        # torch nodes that depend on constants alone -> what they compute; in the graph only where it is read
        self.folded: dict[fx.Node, Any] = {}
        self.is_backward = False

    # -- building blocks -------------------------------------------------------------------------------

    def declare(self, name: str, example: Tensor) -> None:
        self.types[name] = tensor_type(example)

    def emit(
        self,
        op: str,
        inputs: list[str],
        result: TensorType | list[TensorType],
        domain: str = "",
        **attributes,
    ) -> Any:
        """Appends a node; returns the name of its output, or the names if `result` is a list of types."""
        types = result if isinstance(result, list) else [result]
        operands = [self.operand(value) if value else "" for value in inputs]
        names = []
        for value_type in types:
            names.append(self.new_name(op))
            self.types[names[-1]] = value_type
        self.nodes.append(Node(op, operands, names, attributes, domain, self.is_backward))
        return names if isinstance(result, list) else names[0]

    def repeat(self, value: str, result: TensorType) -> str:
        """`value` for each image, as `result`; in memory only if something other than a product reads it."""
        name = self.new_name("expanded")
        self.types[name] = result
        self.expanded[name] = value
        return name

    def new_name(self, stem: str) -> str:
        return f"{stem}_{len(self.types)}_{len(self.nodes)}"

    def _append(self, op: str, inputs: list[str], output: str, **attributes) -> str:
        self.nodes.append(Node(op, inputs, [output], attributes, "", self.is_backward))
        return output

    def operand(self, value: str) -> str:
        """The name under which a node reads `value`: frozen weights in float32, transposes in memory."""
        if value in self.transposed:
            rank = len(self.types[value].shape)
            permutation = [*range(rank - 2), rank - 1, rank - 2]
            return self._append("Transpose", [self.operand(self.transposed.pop(value))], value, perm=permutation)
        if value in self.expanded:
            shape = self.shape_vector(self.types[value].shape)
            return self._append("Expand", [self.operand(self.expanded.pop(value)), shape], value)
        if value not in self.weights.formats:
            return value
        return self.dequantized_weight(value)

    def weight_members(self, name: str) -> list[str]:
        """The arrays that hold a frozen weight, as inputs of the graph."""
        members = self.weights.members(name)
        for member in members:
            self.used_weights[member] = None
            array = self.weights.arrays[member]
            self.types[member] = TensorType(array.dtype, array.shape)
        return members

    def dequantized_weight(self, name: str) -> str:
        members = self.weight_members(name)
        if self.weights.formats[name] == "fp32":
            return name
        if self.weights.formats[name] == "int4":
            return self.dequantized_blocks(*members, self.types[name].shape)
        result = self.new_name("weight")
        self.types[result] = TensorType(FLOAT32, self.types[name].shape)
        if self.weights.formats[name] == "int8":
            return self._append("DequantizeLinear", members, result, axis=0)
        return self._append("Cast", members, result, to=FLOAT32)

    def dequantized_blocks(self, packed: str, scale: str, shape: tuple[int, ...]) -> str:
        """What quantize_blocks made, in float32. Codes are unpacked to a byte each: onnxruntime 1.19 cannot bind a
        tensor of type UINT4 to mapped memory, and 1.32 dequantises one more slowly than bytes (8 against 2 ms for a
        matrix of 768 x 3072), as it does blocks that are given by `block_size` instead of a view."""
        (half,), (blocks,) = self.types[packed].shape, self.types[scale].shape
        part = TensorType(UINT8, (half,))
        low = self.emit("BitwiseAnd", [packed, self.constant(15, UINT8)], part)
        high = self.emit("BitShift", [packed, self.constant(4, UINT8)], part, direction="RIGHT")
        codes = self.emit("Concat", [low, high], TensorType(UINT8, (2 * half,)), axis=0)
        rows = self.reshape(codes, (blocks, 2 * half // blocks))
        single = self.emit("Cast", [scale], TensorType(FLOAT32, (blocks,)), to=FLOAT32)
        count = self.constant([blocks], np.int64)
        zero = self.emit("Expand", [self.constant(ZERO, UINT8), count], TensorType(UINT8, (blocks,)))
        values = TensorType(FLOAT32, self.types[rows].shape)
        return self.reshape(self.emit("DequantizeLinear", [rows, single, zero], values, axis=0), shape)

    def constant(self, value: Any, dtype: Any) -> str:
        """The name of a small constant that the graph itself holds; equal ones are held once."""
        array = np.asarray(value, dtype)
        name = f"constant_{array.dtype}_{'x'.join(map(str, array.shape))}_{array.tobytes().hex()[:64]}"
        known = self.constants.setdefault(name, array)
        if not np.array_equal(known, array):
            name = f"{name}_{len(self.constants)}"
            self.constants[name] = array
        self.types[name] = TensorType(array.dtype, array.shape)
        return name

    def scalar(self, value: float, beside: str) -> str:
        """A constant that an elementwise operator reads together with the tensor `beside`, of its dtype. Beside
        (..., 1), rank 0 would have the engine call its loop once a value, 40 times slower."""
        dtype, shape = self.types[beside]
        return self.constant(np.full([1] * len(shape) if shape[-1:] == (1,) else [], value), dtype)

    def reshape(self, value: str, shape: tuple[Dimension, ...]) -> str:
        if self.types[value].shape == shape:
            return value
        target = self.constant([-1 if isinstance(d, Batch) else d for d in shape], np.int64)
        return self.emit(VIEW, [value, target], TensorType(self.types[value].dtype, shape), allowzero=1)

    def shape_vector(self, shape: tuple[Dimension, ...]) -> str:
        """int64 (rank,): the shape at run time."""
        if not any(isinstance(d, Batch) for d in shape):
            return self.constant(shape, np.int64)
        one = TensorType(INT64, (1,))
        batch = self.emit("Shape", [IMAGE], one, start=0, end=1)
        parts = []
        for dimension in shape:
            if not isinstance(dimension, Batch):
                parts.append(self.constant([dimension], np.int64))
            elif dimension.times == 1:
                parts.append(batch)
            else:
                times = self.constant([dimension.times], np.int64)
                parts.append(self.emit("Mul", [batch, times], one))
        return self.emit("Concat", parts, TensorType(INT64, (len(shape),)), axis=0)

    def name_outputs(self, values: list[str], names: list[str]) -> None:
        """Gives results their public names; a result that no node produces alone is copied."""
        produced = {name for node in self.nodes for name in node.outputs}
        renamed: dict[str, str] = {}
        for value, name in zip(values, names, strict=True):
            value = self.operand(value)
            self.types[name] = self.types[value]
            if value in produced and value not in renamed:
                renamed[value] = name
            else:
                self._append("Identity", [value], name)
        for node in self.nodes:
            node.inputs = [renamed.get(value, value) for value in node.inputs]
            node.outputs = [renamed.get(value, value) for value in node.outputs]

    # -- torch nodes -----------------------------------------------------------------------------------

    def value_of(self, node: fx.Node) -> Any:
        """The name under which the graph holds what `node` computes; constants get one when first read."""
        if node not in self.values and node in self.folded:
            self.values[node] = self.materialize(node)
        return self.values.get(node)

    def materialize(self, node: fx.Node) -> str:
        if node.op == "get_attr":
            tensor = self.folded[node]
            name = self.parameter_names.get(id(tensor))
            if name is None:
                return self.constant(tensor.detach().numpy(), DTYPES[tensor.dtype])
            self.declare(name, tensor)
            return name
        if self.is_view_of_parameter(node):  # stays a view: a copy of a weight would double it
            return self.call(node)
        return self.large_constant(np.ascontiguousarray(self.folded[node].detach().numpy()))

    def large_constant(self, array: np.ndarray) -> str:
        """The name of a constant that lies among the weights if it is not small."""
        if array.nbytes <= LARGEST_CONSTANT_BYTES:
            return self.constant(array, array.dtype)
        name = f"folded.{hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
        self.weights.arrays[name], self.weights.formats[name] = array, "fp32"
        self.types[name] = TensorType(array.dtype, array.shape)
        return name

    def is_view_of_parameter(self, node: fx.Node) -> bool:
        while node.target in VIEWS:
            node = node.args[0]
        return node.op == "get_attr" and id(self.folded[node]) in self.parameter_names

    def lower_call(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        if isinstance(value, SymInt | int | bool):
            return  # sizes come from the recorded shapes
        inputs = node.all_input_nodes
        if all(source in self.folded for source in inputs) and is_constant(value):
            self.folded[node] = evaluate(node, self.folded)
            return
        self.values[node] = self.call(node)
        if is_in_place(node.target):
            self.values[node.args[0]] = self.values[node]  # later readers see the changed tensor

    def call(self, node: fx.Node) -> Any:
        function = LOWERINGS.get(node.target) or LOWERINGS.get(out_of_place(node.target))
        if function is None:
            raise UserError(f"the model uses {node.target}, which has no lowering to ONNX yet; choose another model")
        arguments = fx.map_arg(node.args, self.value_of)
        return function(self, node, *arguments, **node.kwargs)

    def other_operand(self, node: fx.Node, neutral: float, only_second: bool = False) -> str | None:
        """Of a sum or product, the operand that it equals because the other is `neutral` everywhere."""
        for index in (1,) if only_second else (0, 1):
            operand, other = node.args[index], node.args[1 - index]
            constant = self.folded.get(operand) if isinstance(operand, fx.Node) else None
            if constant is None or not isinstance(other, fx.Node) or not bool((constant == neutral).all()):
                continue
            name = self.value_of(other)
            if self.types[name] == tensor_type(node.meta["val"]):
                return name
        return None


def needed_nodes(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that results depend on. The gradient of a frozen convolution names an input of which it reads
    no value."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op != "output" and node not in needed and not is_in_place(node.target):
            continue
        inputs = node.all_input_nodes
        if node.target is aten.convolution_backward.default and not node.args[-1][1]:
            inputs = [source for source in inputs if source is not node.args[1]]
        needed.add(node)
        needed.update(inputs)
    return needed


def is_in_place(target: Any) -> bool:
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return target._schema.name.endswith("_") and not target._schema.name.endswith("__")


def out_of_place(target: Any) -> Any:
    """aten.add_.Tensor -> aten.add.Tensor; None for other operators."""
    if not is_in_place(target):
        return None
    packet = getattr(aten, target._schema.name.removeprefix("aten::").removesuffix("_"), None)
    return getattr(packet, target._overloadname, None)


def is_constant(value: Any) -> bool:
    """Whether a node's results have sizes that do not depend on the batch."""
    tensors = value if isinstance(value, list | tuple) else [value]
    return all(
        isinstance(tensor, Tensor) and not any(isinstance(d, Batch) for d in tensor_type(tensor).shape)
        for tensor in tensors
    )


def evaluate(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    with torch.no_grad():
        arguments = fx.map_arg(node.args, values.__getitem__)
        keywords = fx.map_arg(dict(node.kwargs), values.__getitem__)
        return node.target(*arguments, **keywords)
