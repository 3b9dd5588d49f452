"""Derives the lifetimes of a graph's buffers, by the table of what onnxruntime does with each operator (`rules.py`)."""

from typing import NamedTuple

import numpy as np

from edge_s2a.artifact.names import is_result
from edge_s2a.artifact.program import Call, Program, last_readers
from edge_s2a.host.graph.ir import Graph, Node
from edge_s2a.host.targets.onnxruntime.rules import Rule, rule_of
from edge_s2a.plan.arena import live_peak, round_up
from edge_s2a.plan.lifetimes import GraphPlan, Lifetime

SCRATCH = ""  # stands for scratch memory in the list of values


def plan_program(graphs: list[Graph], calls: Program) -> GraphPlan:
    """What the calls put into the engine's arena; nodes are numbered through all calls."""
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


def peak_live_bytes(graph: Graph, batch: int) -> int:
    """The most bytes live at any node when the whole graph runs as one call with `batch` images."""
    return live_peak(plan_program([graph], [Call(0, graph.inputs, graph.outputs)]).lifetimes, batch)


class Buffer(NamedTuple):
    """Memory that one run of a graph takes from the arena: from before node `first` until node `last` has run."""

    value: str  # the value it was made for, or SCRATCH
    first: int
    last: int
    bytes_per_image: int
    bytes_constant: int
    kind: str  # of the lifetime; "saved" is found later


def buffers(graph: Graph, kept: set[str]) -> list[Buffer]:
    """The buffers in the order of allocation. Graph inputs, constants and outputs lie outside the arena, except outputs
    that are `kept` in it."""
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
        rule = rule_of(node)
        for name in node.outputs:
            if not name or name in outside:
                continue
            source = node.inputs[0] if node.inputs else ""
            if rule.is_view and source in outside:
                outside.add(name)  # a view of memory that is not the arena's
                continue
            buffer = buffer_of.get(source)
            if buffer is not None and name not in kept and _shares(rule, graph, node, name, remaining[buffer]):
                remaining[buffer] += uses.get(name, 0)
            else:
                buffer = len(spans)
                spans.append([index, index])
                remaining.append(uses.get(name, 0))
                values.append(name)
            buffer_of[name] = buffer
        if any(rule.scratch(node, graph.types)[:2]):
            spans.append([index, index])
            remaining.append(0)
            values.append(SCRATCH)
        for name in node.inputs:
            buffer = buffer_of.get(name)
            if buffer is not None:
                remaining[buffer] -= 1
                spans[buffer][1] = index
    return [
        Buffer(name, first, last, *rule_of(graph.nodes[first]).scratch(graph.nodes[first], graph.types))
        if name == SCRATCH
        else Buffer(
            name, first, last, graph.types[name].bytes_per_image(), graph.types[name].bytes_constant(),
            "workspace" if graph.types[name].is_batched() or set(graph.types[name].shape) <= {1} else "weight",
        )
        for name, (first, last) in zip(values, spans, strict=True)
    ]  # fmt: skip


def _shares(rule: Rule, graph: Graph, node: Node, output: str, remaining: int) -> bool:
    """Whether an output lies where the node's first input does, of which `remaining` reads are still to come."""
    if rule.is_view:
        return True
    before, after = graph.types[node.inputs[0]], graph.types[output]
    same_size = before.shape == after.shape and before.bytes(1) == after.bytes(1)  # as when booleans become bytes
    return rule.overwrites_input and remaining == 1 and same_size


class Crossing(NamedTuple):
    """A buffer that the forward pass leaves for the backward pass."""

    name: str
    dtype: np.dtype
    bytes_per_image: int
    bytes_constant: int


def crossings(graph: Graph) -> list[Crossing]:
    """Every tensor that a backward node reads and a forward node wrote; a view counts as the tensor it is a view of."""
    written = {name for node in graph.nodes if not node.is_backward for name in node.outputs if name}
    read = {name for node in graph.nodes if node.is_backward for name in node.inputs}
    viewed = {node.outputs[0]: node.inputs[0] for node in graph.nodes if rule_of(node).is_view}

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
    """Bytes per image that the forward pass leaves for the backward pass."""
    return sum(life.bytes_per_image for life in lifetimes if life.kind == "saved")
