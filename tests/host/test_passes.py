"""What the passes ensure of a graph; that they change no number is what tests/parity says."""

import copy
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_s2a.host.graph.ir import Batch, Graph, Node, TensorType
from edge_s2a.host.graph.passes.sink import sink
from edge_s2a.host.pack import adapt, build_graphs
from edge_s2a.host.targets.onnxruntime.liveness import peak_live_bytes
from tests.helpers.artifacts import options_of


@cache
def graphs_of(compute):
    options = options_of(adapter="bias+prompt+side+lowrank", compute=compute)
    return build_graphs(options, adapt(options))


@pytest.fixture
def graphs():
    return graphs_of("fp32")


@pytest.mark.parametrize("name", ["training", "inference"])
def test_views_are_views_of_what_some_operator_wrote_and_each_is_made_once(graphs, name):
    graph = graphs[name]
    views = {node.outputs[0]: node.inputs[0] for node in graph.nodes if node.operator == "Reshape"}
    assert views
    assert not views.keys() & set(views.values())
    inner = [view for view in views if view not in graph.outputs]
    assert all(graph.types[view].shape != graph.types[views[view]].shape for view in inner)
    kinds = [(views[view], graph.types[view].shape) for view in inner]
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize("name", ["training", "inference"])
def test_every_node_makes_something_that_is_read(graphs, name):
    graph = graphs[name]
    read = {value for node in graph.nodes for value in node.inputs} | set(graph.outputs)
    assert all(read.intersection(node.outputs) for node in graph.nodes)
    assert set(graph.constants) <= read


BROADCASTING = {"Add", "Sub", "Mul", "Div", "Max", "Min"}


@pytest.mark.parametrize("compute", ["fp32", "int8"])
def test_a_scalar_beside_a_column_has_its_rank(compute):
    """Of another rank the engine would take such a tensor value by value: 360 us for 38,000 values, not 8."""
    graph = graphs_of(compute)["training"]
    ranks = []
    for node in graph.nodes:
        if node.operator not in BROADCASTING:
            continue
        columns = [graph.types[value].shape for value in node.inputs if value not in graph.constants]
        scalars = [graph.constants[value] for value in node.inputs if value in graph.constants]
        if len(columns) == len(scalars) == 1 and columns[0][-1:] == (1,) and scalars[0].size == 1:
            ranks.append((len(columns[0]), scalars[0].ndim))
    assert ranks
    assert all(column == scalar for column, scalar in ranks)


def graph_of(rows, results):
    """A graph of input "x". rows: (operator, inputs, output, bytes per image / 4, is_backward)."""
    types = {"x": TensorType(np.dtype(np.float32), (Batch(1), 16))}
    nodes = []
    for operator, inputs, output, width, is_backward in rows:
        nodes.append(Node(operator, inputs, [output], is_backward=is_backward))
        types[output] = TensorType(np.dtype(np.float32), (Batch(1), width) if width else (64,))
    return Graph("test", ["x"], results, nodes, {}, types)


def test_an_activation_is_made_after_its_derivative():
    rows = [
        ("Gemm", ["x"], "h", 256, False),
        ("Gelu", ["h"], "y", 256, False),
        ("Erf", ["h"], "a", 256, False),
        ("Mul", ["a", "h"], "derivative", 256, False),
        ("QuantizeLinear", ["derivative"], "code", 32, False),
        ("Gemm", ["y"], "z", 64, False),
        ("Mul", ["code", "z"], "gradient", 64, True),
    ]
    graph = sink(graph_of(rows, ["gradient"]), peak_live_bytes)
    made = [node.outputs[0] for node in graph.nodes]
    assert made == ["h", "a", "derivative", "code", "y", "z", "gradient"]


@st.composite
def graphs_at_random(draw):
    names, rows = ["x"], []
    count = draw(st.integers(2, 25))
    first_backward = draw(st.integers(1, count))
    for number in range(count):
        inputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
        rows.append(("Add", inputs, f"v{number}", draw(st.integers(0, 200)), number >= first_backward))
        names.append(f"v{number}")
    return graph_of(rows, [names[-1]])


@given(graph=graphs_at_random())
@settings(max_examples=300, deadline=None)
def test_sinking_keeps_the_order_of_reading_and_never_raises_what_is_live(graph):
    before = copy.deepcopy(graph)
    after = sink(graph, peak_live_bytes)
    assert sorted(node.outputs[0] for node in after.nodes) == sorted(node.outputs[0] for node in before.nodes)
    known = {"x"}
    for node in after.nodes:
        assert known.issuperset(node.inputs)
        known.update(node.outputs)
    backward = [node.is_backward for node in after.nodes]
    assert backward == sorted(backward)
    for batch in (1, 8):
        assert peak_live_bytes(after, batch) <= peak_live_bytes(before, batch)
