"""What the passes ensure of a graph; that they change no number is what tests/parity says."""

import pytest

from edge_s2a.host.package import adapt, build_graphs
from tests.conftest import options_of


@pytest.fixture(scope="module")
def graphs():
    options = options_of(adapter_kinds=("bias", "prompt", "side", "lowrank"))
    return build_graphs(options, adapt(options))


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
