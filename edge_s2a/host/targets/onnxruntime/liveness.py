"""Lifetimes of the buffers of a graph, by the rules of onnxruntime's CPU allocation planner.

Measured with buffer reuse off (`SessionOptions.enable_mem_reuse=False`), onnxruntime 1.19 and 1.32 alike:
an output gets memory of its own, unless its node is a view of its input, or may overwrite an input that
no later node reads. Arithmetic on two tensors never runs in place on the CPU. Some kernels take scratch memory from
the same arena while they run.
"""

import math
from typing import NamedTuple

import numpy as np

from edge_s2a.artifact.names import is_result
from edge_s2a.artifact.program import Program, last_readers
from edge_s2a.host.graph.ir import VIEW, Graph, Node
from edge_s2a.plan.arena import round_up
from edge_s2a.plan.lifetimes import GraphPlan, Lifetime

# A convolution copies its input's windows in segments of this size, one for each thread.
SEGMENT_BYTES = 64 * 1024
SCRATCH = ""  # stands for scratch memory in the list of values
IN_PLACE = {"Relu", "Sigmoid", "Tanh", "Softmax", "Clip", "Identity", "Cast"}


def plan_program(graphs: list[Graph], calls: Program) -> GraphPlan:
    """What the calls put into the engine's arena, nodes being counted through all of them."""
    used = {call.graph for call in calls}
    constant_bytes = sum(round_up(array.nbytes) for number in used for array in graphs[number].constants.values())
    ends = np.cumsum([len(graphs[call.graph].nodes) for call in calls])
    readers = last_readers(calls)
    backward = [node.is_backward for call in calls for node in graphs[call.graph].nodes]
    first_backward = backward.index(True) if True in backward else len(backward)

    lifetimes = []
    for index, call in enumerate(calls):
        graph = graphs[call.graph]
        start = int(ends[index]) - len(graph.nodes)
        # Results leave the arena; what other calls read stays in it until the last of these is done.
        last = {
            local: int(ends[readers[name]]) - 1
            for local, name in zip(graph.outputs, call.outputs, strict=True)
            if name in readers and not is_result(name)
        }
        for buffer in buffers(graph, set(last)):
            first, end = start + buffer.first, last.get(buffer.value, start + buffer.last)
            kind = "saved" if first < first_backward <= end else buffer.kind
            lifetimes.append(Lifetime(first, end, buffer.bytes_per_image, buffer.bytes_constant, kind))
    return GraphPlan(constant_bytes, lifetimes)


class Buffer(NamedTuple):
    """Memory that one run of a graph takes from the arena: before node `first`, until node `last` has run."""

    value: str  # the value it was made for, or SCRATCH
    first: int
    last: int
    bytes_per_image: int
    bytes_constant: int
    kind: str  # of a lifetime, but for "saved"


def buffers(graph: Graph, kept: set[str]) -> list[Buffer]:
    """In the order of allocation. Graph inputs, constants and outputs lie outside the arena, but for outputs that are
    `kept` in it."""
    outside = {*graph.inputs, *graph.constants, *graph.outputs} - kept
    uses: dict[str, int] = dict.fromkeys(kept, 1)  # whoever reads them later
    for node in graph.nodes:
        for name in node.inputs:
            uses[name] = uses.get(name, 0) + 1

    buffer_of: dict[str, int] = {}  # value -> index of its buffer
    remaining: list[int] = []  # reads that are still to come, by buffer
    spans: list[list[int]] = []  # [first, last] by buffer
    values: list[str] = []  # the value each buffer was made for
    for index, node in enumerate(graph.nodes):
        for name in node.outputs:
            if not name or name in outside:
                continue
            source = node.inputs[0] if node.inputs else ""
            if node.operator == VIEW and source in outside:
                outside.add(name)  # a view of memory that is not the arena's
                continue
            buffer = buffer_of.get(source)
            if buffer is not None and name not in kept and _shares(graph, node, name, remaining[buffer]):
                remaining[buffer] += uses.get(name, 0)
            else:
                buffer = len(spans)
                spans.append([index, index])
                remaining.append(uses.get(name, 0))
                values.append(name)
            buffer_of[name] = buffer
        if any(scratch(graph, node)[:2]):
            spans.append([index, index])
            remaining.append(0)
            values.append(SCRATCH)
        for name in node.inputs:
            buffer = buffer_of.get(name)
            if buffer is not None:
                remaining[buffer] -= 1
                spans[buffer][1] = index
    return [
        Buffer(name, first, last, *scratch(graph, graph.nodes[first]))
        if name == SCRATCH
        else Buffer(
            name, first, last, graph.types[name].bytes_per_image(), graph.types[name].bytes_constant(),
            "workspace" if graph.types[name].is_batched() or math.prod(graph.types[name].shape) == 1 else "weight",
        )
        for name, (first, last) in zip(values, spans, strict=True)
    ]  # fmt: skip


def scratch(graph: Graph, node: Node) -> tuple[int, int, str]:
    """(bytes an image, bytes, kind) that the node's kernel allocates beside its outputs while it runs. Measured with
    onnxruntime 1.32 on single nodes: Where selects from either side apart; convolutions hold windows as a matrix."""
    if node.operator == "Where":
        result = graph.types[node.outputs[0]]
        return 2 * result.bytes_per_image(), 2 * result.bytes_constant(), "workspace"
    if node.operator in ("Conv", "ConvTranspose"):
        return 0, *convolution_scratch(graph, node)
    return 0, 0, "workspace"


def convolution_scratch(graph: Graph, node: Node) -> tuple[int, str]:
    """(bytes, kind). A convolution lays out windows whole where its outputs are more than their positions, otherwise in
    segments; a transposed one all that it adds up, of one image at a time."""
    weight = [int(size) for size in graph.types[node.inputs[1]].shape]
    group = node.attributes["group"]
    if node.operator == "ConvTranspose":
        positions = math.prod(graph.types[node.inputs[0]].shape[2:])
        return math.prod(weight[1:]) * positions * 4, "workspace"
    is_product = weight[2:] == [1, 1] and set(node.attributes["strides"]) == {1} and not any(node.attributes["pads"])
    positions = math.prod(graph.types[node.outputs[0]].shape[2:])
    if is_product:
        return 0, "workspace"
    is_whole = weight[0] // group > positions
    return (positions * math.prod(weight[1:]) * 4, "workspace") if is_whole else (SEGMENT_BYTES, "segments")


def _shares(graph: Graph, node: Node, output: str, remaining: int) -> bool:
    if node.operator == VIEW:
        return True
    before, after = graph.types[node.inputs[0]], graph.types[output]
    same_size = before.shape == after.shape and before.bytes(1) == after.bytes(1)  # as when booleans become bytes
    return node.operator in IN_PLACE and remaining == 1 and same_size


class Crossing(NamedTuple):
    """A buffer that the forward pass leaves for the backward pass."""

    name: str
    dtype: np.dtype
    bytes_per_image: int
    bytes_constant: int


def crossings(graph: Graph) -> list[Crossing]:
    """Every tensor that a backward node reads and a forward node wrote, views under the name of what they view."""
    written = {name for node in graph.nodes if not node.is_backward for name in node.outputs if name}
    read = {name for node in graph.nodes if node.is_backward for name in node.inputs}
    viewed = {node.outputs[0]: node.inputs[0] for node in graph.nodes if node.operator == VIEW}

    def origin(name: str) -> str:
        while name in viewed:
            name = viewed[name]
        return name

    names = dict.fromkeys(origin(name) for name in read & written)
    return [
        Crossing(name, graph.types[name].dtype, graph.types[name].bytes_per_image(), graph.types[name].bytes_constant())
        for name in names
        if name in written
    ]


def saved_bytes_per_image(lifetimes: list[Lifetime]) -> int:
    """What the backward pass keeps of the forward pass, for each image."""
    return sum(life.bytes_per_image for life in lifetimes if life.kind == "saved")
