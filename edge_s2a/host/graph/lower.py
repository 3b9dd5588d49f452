"""Lowers a captured torch computation to a graph of ONNX operators.

Each ATen operator has a function in `lowerings`. Values that depend on constants alone are computed at once.
"""

from typing import Any

import numpy as np
import torch
from torch import SymInt, Tensor, fx

from edge_s2a.errors import UserError
from edge_s2a.host.graph.builder import GraphBuilder
from edge_s2a.host.graph.ir import Batch, Graph
from edge_s2a.host.graph.lowerings import LOWERINGS
from edge_s2a.host.graph.lowerings.table import DTYPES, Lowered, tensor_type
from edge_s2a.host.trace.capture import Captured
from edge_s2a.host.weights import FrozenWeights

aten = torch.ops.aten

VIEWS = {
    aten.t.default, aten.transpose.int, aten.permute.default, aten.view.default, aten._unsafe_view.default,
    aten.reshape.default, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.detach.default,
    aten.alias.default, aten.expand.default, aten.clone.default,
}  # fmt: skip
# Sums and products with a neutral element are left out: operator -> (the element, operands that may be it).
NEUTRAL: dict[Any, tuple[float, tuple[int, ...]]] = {
    aten.mul.Tensor: (1, (0, 1)),
    aten.mul.Scalar: (1, (0, 1)),
    aten.add.Tensor: (0, (0, 1)),
    aten.add.Scalar: (0, (0, 1)),
    aten.sub.Tensor: (0, (1,)),
    aten.sub.Scalar: (0, (1,)),
}


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
    builder = GraphBuilder(weights)
    lowering = Lowering(builder, parameter_names)
    placeholders = [node for node in captured.graph.nodes if node.op == "placeholder"]
    for node, input_name in zip(placeholders, input_names, strict=True):
        builder.types[input_name] = tensor_type(node.meta["val"])
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
            builder.is_backward = True
    builder.name_outputs([lowering.value_of(result) for result in results], output_names)
    inputs = input_names + list(builder.used_weights)
    return Graph(name, inputs, output_names, builder.nodes, builder.constants, builder.types)


class Lowering:
    """What each torch node has become: a value of the graph, or a constant that is not in the graph yet."""

    def __init__(self, builder: GraphBuilder, parameter_names: dict[int, str]):
        self.builder = builder
        self.parameter_names = parameter_names
        self.values: dict[fx.Node, Any] = {}  # names, see `Lowered`
        # torch nodes that depend on constants alone -> what they compute; in the graph only where it is read
        self.folded: dict[fx.Node, Any] = {}

    def lower_call(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        if isinstance(value, SymInt | int | bool):
            return  # sizes come from the recorded shapes
        inputs = node.all_input_nodes
        if all(source in self.folded for source in inputs) and is_constant(value):
            self.folded[node] = evaluate(node, self.folded)
            return
        self.values[node] = self.call(node)
        changed = node.args[0] if is_in_place(node.target) else None
        if isinstance(changed, fx.Node):
            self.values[changed] = self.values[node]  # later readers see the changed tensor

    def call(self, node: fx.Node) -> Lowered:
        target = node.target if node.target in LOWERINGS else out_of_place(node.target)
        if target not in LOWERINGS:
            raise UserError(f"the model uses {node.target}, which has no lowering to ONNX yet; choose another model")
        arguments: Any = fx.map_arg(node.args, self.value_of)
        neutral, places = NEUTRAL.get(target, (0, ()))
        if same := self.operand_beside(node, neutral, places):
            return same
        self.builder.lowered = str(node.target)
        return LOWERINGS[target](self.builder, node, *arguments, **node.kwargs)

    def operand_beside(self, node: fx.Node, neutral: float, places: tuple[int, ...]) -> str | None:
        """The operand that a sum or product equals because the other, at one of `places`, is `neutral` everywhere."""
        for place in places:
            operand, other = node.args[place], node.args[1 - place]
            constant = self.folded.get(operand) if isinstance(operand, fx.Node) else None
            if constant is None or not isinstance(other, fx.Node) or not bool((constant == neutral).all()):
                continue
            if place == 0 and node.kwargs.get("alpha", 1) != 1:
                continue
            name: str = self.value_of(other)
            if self.builder.types[name] == tensor_type(node.meta["val"]):
                return name
        return None

    def value_of(self, node: fx.Node) -> Any:
        """The name under which the graph holds what `node` computes; constants get one when first read."""
        if node not in self.values and node in self.folded:
            self.values[node] = self.materialize(node)
        return self.values.get(node)

    def materialize(self, node: fx.Node) -> Lowered:
        if node.op == "get_attr":
            tensor: Tensor = self.folded[node]
            name = self.parameter_names.get(id(tensor))
            if name is None:
                return self.builder.constant(tensor.detach().numpy(), DTYPES[tensor.dtype])
            self.builder.types[name] = tensor_type(tensor)
            return name
        if self.is_view_of_parameter(node):  # stays a view: a copy of a weight would double it
            return self.call(node)
        return self.builder.large_constant(np.ascontiguousarray(self.folded[node].detach().numpy()))

    def is_view_of_parameter(self, node: fx.Node) -> bool:
        while node.target in VIEWS and isinstance(source := node.args[0], fx.Node):
            node = source
        return node.op == "get_attr" and id(self.folded[node]) in self.parameter_names


def needed_nodes(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that results depend on. The gradient of a frozen convolution names its input and reads only the shape
    of that."""
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
    function: Any = node.target
    with torch.no_grad():
        arguments: Any = fx.map_arg(node.args, values.__getitem__)
        keywords = fx.map_arg(dict(node.kwargs), values.__getitem__)
        return function(*arguments, **keywords)
