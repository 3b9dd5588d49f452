"""The pieces of a graph, called in turn, are the graph; equal blocks are one piece."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_s2a.artifact.program import Call, last_readers
from edge_s2a.host.graph.segment import longest_repeat, segment
from edge_s2a.host.pack import adapt, build_graphs
from edge_s2a.host.targets.onnxruntime.liveness import plan_program
from edge_s2a.plan.arena import live_peak
from tests.helpers.artifacts import NO_ADAPTER, SMALL_VIT, options_of

MODELS = {
    "vit": {"model_kwargs": {**SMALL_VIT, "depth": 5}, "adapter": "bias+lowrank"},
    "vit, side": {"model_kwargs": {**SMALL_VIT, "depth": 4}, "adapter": "side"},
    "vit, none": {"model_kwargs": {**SMALL_VIT, "img_size": 64, "depth": 6}, **NO_ADAPTER},
    "mobilenet": {"model": "mobilenetv2_035", "model_kwargs": {}, "image_size": 32, "adapter": "lowrank"},
}


@pytest.fixture(scope="module", params=MODELS)
def graphs(request):
    options = options_of(**MODELS[request.param])
    return build_graphs(options, adapt(options))


def origin(name, viewed):
    while name in viewed:
        name = viewed[name]
    return name


def nodes_in_order(nodes, constants, results):
    """What each node does: operator, what it reads, what it writes; constants by value, views resolved and left out but
    for those that are results."""
    viewed = {node.outputs[0]: node.inputs[0] for node in nodes if node.operator == "Reshape"}

    def read(name):
        name = origin(name, viewed)
        return (constants[name].tobytes(), constants[name].dtype) if name in constants else name

    return [
        (node.operator, node.attributes, [read(name) for name in node.inputs], node.outputs, node.is_backward)
        for node in nodes
        if node.operator != "Reshape" or node.outputs[0] in results
    ]


def inlined(pieces, calls):
    """(nodes, constants) of all calls in turn, their values under the program's names."""
    nodes, constants = [], {}
    for number, call in enumerate(calls):
        piece = pieces[call.graph]
        names = dict(zip((*piece.inputs, *piece.outputs), (*call.inputs, *call.outputs), strict=True))
        for node in piece.nodes:
            inputs, outputs = (
                [names.get(name) or (name if name in piece.constants else name and f"{number}:{name}") for name in side]
                for side in (node.inputs, node.outputs)
            )
            nodes.append(type(node)(node.operator, inputs, outputs, node.attributes, node.domain, node.is_backward))
        constants |= piece.constants
    return nodes, constants


def test_the_calls_in_turn_are_the_graph(graphs):
    """Node by node, up to the names of values that do not leave their piece."""
    pieces, programs, constants = segment(graphs)
    for name, graph in graphs.items():
        nodes, piece_constants = inlined(pieces, programs[name])
        expected = nodes_in_order(graph.nodes, graph.constants, graph.outputs)
        found = nodes_in_order(nodes, piece_constants | constants, graph.outputs)
        renamed = {}
        assert len(found) == len(expected)
        for (*what, reads, writes, backward), (*other, other_reads, other_writes, other_backward) in zip(
            found, expected, strict=True
        ):
            assert (what, backward) == (other, other_backward)
            assert [renamed.get(value, value) for value in reads] == other_reads
            renamed |= dict(zip(writes, other_writes, strict=True))
        assert set(graph.outputs) <= set(renamed.values())


def test_what_passes_between_pieces_is_no_view_and_no_more_than_is_read(graphs):
    pieces, programs, _ = segment(graphs)
    for name, calls in programs.items():
        readers = last_readers(calls)
        for index, call in enumerate(calls):
            views = {node.outputs[0] for node in pieces[call.graph].nodes if node.operator == "Reshape"}
            for local, value in zip(pieces[call.graph].outputs, call.outputs, strict=True):
                assert value in graphs[name].outputs or (local not in views and readers[value] > index)


@pytest.mark.parametrize("batch", [1, 4])
def test_cutting_costs_no_memory(graphs, batch):
    """At most 3 per cent more is live than in one piece: a piece holds what it reads until it is done. Not the arena:
    how best fit parts the memory of so small a graph is chance."""
    pieces, programs, _ = segment(graphs)
    for name, graph in graphs.items():
        one_call = [Call(0, graph.inputs, graph.outputs)]
        whole = live_peak(plan_program([graph], one_call).lifetimes, batch)
        assert live_peak(plan_program(pieces, programs[name]).lifetimes, batch) <= 1.03 * whole


def test_equal_blocks_are_one_piece():
    """Eight blocks take as many nodes as five; fitted levels, which differ from block to block, are inputs. (Of the
    program of taps half the blocks are of one kind, and half of another.)"""

    def node_count(depth):
        options = options_of(model_kwargs={**SMALL_VIT, "depth": depth}, levels="fitted")
        graphs = build_graphs(options, adapt(options))
        pieces, programs, constants = segment({name: graph for name, graph in graphs.items() if name != "taps"})
        calls = sum(len(pieces[call.graph].nodes) for call in programs["training"])
        assert any(name in constants for call in programs["training"] for name in call.inputs)
        return sum(len(piece.nodes) for piece in pieces), calls

    five, eight = node_count(5), node_count(8)
    assert eight[0] == five[0]
    assert eight[1] > 1.4 * five[1]


def brute_force_saving(signatures):
    best = 0
    for period in range(1, len(signatures) // 2 + 1):
        for start in range(len(signatures) - 2 * period + 1):
            count = 1
            while signatures[start + count * period :][:period] == signatures[start:][:period]:
                count += 1
            best = max(best, (count - 1) * period)
    return best


@given(signatures=st.lists(st.integers(0, 3), max_size=30))
@settings(max_examples=200, deadline=None)
def test_the_repetition_found_is_one_and_saves_most(signatures):
    start, period, count, slack = longest_repeat(np.array(signatures, np.int64))
    assert (count - 1) * period == brute_force_saving(signatures)
    for shift in range(slack + 1):
        block = signatures[start + shift :][:period]
        assert signatures[start + shift :][: period * count] == block * count
