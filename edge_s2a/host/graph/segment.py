"""Cuts a graph into pieces; equal pieces become one graph that is called several times.

A backbone repeats its blocks, forward and backward, and so do the nodes of its graph in execution order. Each node
costs the engine 4 to 5 kB, so a ViT of twelve blocks loads in a tenth of the memory when a block is one graph.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from edge_s2a.artifact.names import IMAGE, TARGET
from edge_s2a.artifact.program import Call, Program
from edge_s2a.host.graph.ir import VIEW, Graph, Node, TensorType

# Repeats that save fewer nodes than this stay in one piece: each piece costs some calls and copies of views.
LEAST_SAVING = 24
SMALLEST_PIECE = 11  # the MLP of a ViT's block, where all of it is frozen
NOMINAL_BATCH = 8  # weighs values that grow with the batch against others where cuts are chosen

Place = tuple[int, int]  # (node, input) of a read, by number


class Segmented(NamedTuple):
    """The distinct pieces of some graphs, and the calls that make up each graph."""

    graphs: list[Graph]
    programs: dict[str, Program]
    constants: dict[str, np.ndarray]  # those that differ between calls of a piece, and so are inputs of it


class Piece(NamedTuple):
    """Some nodes of a graph, and the values that they pass to other pieces or give as results."""

    graph: Graph
    nodes: list[Node]
    outputs: list[str]


def segment(graphs: dict[str, Graph]) -> Segmented:
    """Cuts `graphs`, after all passes. Ensures that no view passes between pieces."""
    pieces = {name: [(text_of(piece), piece) for piece in pieces_of(graph)] for name, graph in graphs.items()}
    alike: dict[str, list[Piece]] = {}
    for text, piece in (entry for parts in pieces.values() for entry in parts):
        alike.setdefault(text, []).append(piece)
    numbers = {text: number for number, text in enumerate(alike)}
    varying = {text: varying_constants(group) for text, group in alike.items()}

    constants: dict[str, np.ndarray] = {}
    programs: dict[str, Program] = {}
    for name, parts in pieces.items():
        programs[name] = []
        for text, piece in parts:
            inputs = [value for _, value in inputs_of(piece, varying[text])]
            constants |= {value: piece.graph.constants[value] for value in inputs if value in piece.graph.constants}
            programs[name].append(Call(numbers[text], inputs, piece.outputs))
    distinct = [canonical(group[0], varying[text], numbers[text]) for text, group in alike.items()]
    return Segmented(distinct, programs, constants)


def pieces_of(graph: Graph) -> list[Piece]:
    """The pieces in order. A view of another piece's value is repeated where it is read."""
    limits = cuts(graph)
    viewed = {node.outputs[0]: node for node in graph.nodes if node.operator == VIEW}
    parts: list[list[Node]] = []
    for start, end in limits:
        nodes: list[Node] = []
        made: set[str] = set()
        for node in graph.nodes[start:end]:
            for view in (viewed[name] for name in node.inputs if name in viewed and name not in made):
                nodes.append(Node(VIEW, view.inputs, view.outputs, view.attributes, "", node.is_backward))
                made.update(view.outputs)
            nodes.append(node)
            made.update(node.outputs)
        parts.append(nodes)

    reads = [{name for node in nodes for name in node.inputs} for nodes in parts]
    needed = set(graph.outputs)
    pieces = []
    for nodes, read in zip(reversed(parts), reversed(reads), strict=True):
        written = dict.fromkeys(name for node in nodes for name in node.outputs if name)
        outputs = [name for name in written if name in needed and (name in graph.outputs or name not in viewed)]
        # Views that only other pieces read are repeated there.
        used = read.union(outputs)
        nodes = [node for node in nodes if node.operator != VIEW or node.outputs[0] in used]
        if nodes:  # a piece may have had no more than such views
            pieces.append(Piece(graph, nodes, outputs))
        needed |= read
    return pieces[::-1]


# -- equal pieces --------------------------------------------------------------------------------------


def text_of(piece: Piece) -> str:
    """A text that is equal for pieces that compute the same up to the values of float constants."""
    numbers: dict[str, int] = {}
    graph = piece.graph

    def word(name: str) -> object:
        if not name:
            return ""
        kind = graph.types[name].dtype.name, graph.types[name].shape
        if is_fixed(graph, name):
            return name
        return kind if name in graph.constants else (numbers.setdefault(name, len(numbers)), kind)

    nodes = [in_words(node, word) for node in piece.nodes]
    return repr((nodes, [numbers[name] for name in piece.outputs]))


def in_words(node: Node, word: Callable[[str], object]) -> tuple[object, ...]:
    """Describes what a node does, with word(name) in place of each value."""
    reads, writes = [word(name) for name in node.inputs], [word(name) for name in node.outputs]
    return node.operator, node.domain, sorted(node.attributes.items()), node.is_backward, reads, writes


def is_fixed(graph: Graph, name: str) -> bool:
    """Whether `name` is a constant that is part of what a piece computes: a shape, an axis, a type's zero."""
    return name in graph.constants and graph.types[name].dtype.kind != "f"


def constants_read(piece: Piece) -> list[tuple[Place, str]]:
    """((node, input), name) of each float constant that is read."""
    return [
        ((index, place), name)
        for index, node in enumerate(piece.nodes)
        for place, name in enumerate(node.inputs)
        if name in piece.graph.constants and not is_fixed(piece.graph, name)
    ]


def varying_constants(group: list[Piece]) -> set[Place]:
    """The places that read float constants which differ between pieces of the group, as fitted levels of a layer do."""
    reads = [constants_read(piece) for piece in group]
    return {place for (place, name), *others in zip(*reads, strict=True) if any(other != name for _, other in others)}


def inputs_of(piece: Piece, varying: set[Place]) -> list[tuple[Place, str]]:
    """(place of the first read, name) of each value that the piece reads from outside, in the order of reading; the
    constant at each varying place counts separately."""
    seen = {name for node in piece.nodes for name in node.outputs}
    inputs = []
    for index, node in enumerate(piece.nodes):
        for place, name in enumerate(node.inputs):
            if (index, place) in varying:
                inputs.append(((index, place), name))
            elif name and name not in seen and name not in piece.graph.constants:
                seen.add(name)
                inputs.append(((index, place), name))
    return inputs


def canonical(piece: Piece, varying: set[Place], number: int) -> Graph:
    """The piece as a graph of its own, with numbered values."""
    graph = piece.graph
    names: dict[str, str] = {}
    types: dict[str, TensorType] = {}
    inputs: list[str] = []
    places: dict[Place, str] = {}
    for order, (first_read, name) in enumerate(inputs_of(piece, varying)):
        inputs.append(f"input{order}")
        types[inputs[-1]] = graph.types[name]
        if first_read in varying:
            places[first_read] = inputs[-1]
        else:
            names[name] = inputs[-1]
    constants = {}
    nodes = []
    for index, node in enumerate(piece.nodes):
        for name in node.outputs:
            if name:
                names[name] = f"value{len(names)}"
        reads = []
        for place, name in enumerate(node.inputs):
            if name in graph.constants and (index, place) not in varying:
                constants[name] = graph.constants[name]
                names[name] = name
            reads.append(places.get((index, place)) or names.get(name, ""))
        writes = [names.get(name, "") for name in node.outputs]
        nodes.append(Node(node.operator, reads, writes, node.attributes, node.domain, node.is_backward))
    types |= {new: graph.types[name] for name, new in names.items()}
    return Graph(f"piece{number}", inputs, [names[name] for name in piece.outputs], nodes, constants, types)


# -- where to cut --------------------------------------------------------------------------------------


def cuts(graph: Graph) -> list[tuple[int, int]]:
    """The [start, end) of each piece, in order and without gaps. A piece is forward or backward.

    A piece holds what it reads until it is done, so pieces end wherever few bytes pass on, including between a block's
    attention and its MLP.
    """
    signatures = node_signatures(graph)
    crossing = crossing_bytes(graph)

    def divide(start: int, end: int) -> list[int]:
        """Where cuts belong between `start` and `end`."""
        run_start, period, count, slack = longest_repeat(signatures[start:end])
        if period * (count - 1) < LEAST_SAVING:
            return inner_cuts(start, end)
        phases = range(start + run_start, start + run_start + slack + 1)
        first = min(phases, key=lambda phase: sum(crossing[phase + period * k] for k in range(count + 1)))
        middle = first + period * (count // 2)
        offsets = [0, *(cut - middle for cut in inner_cuts(middle, middle + period))]
        repeats = [first + period * k + offset for k in range(count) for offset in offsets]
        last = first + period * count
        return [*divide(start, first), *repeats, last, *divide(last, end)]

    def inner_cuts(start: int, end: int) -> list[int]:
        """Places where no more bytes pass on than at either end."""
        limit = max(crossing[start], crossing[end])
        found = [start]
        for place in range(start + SMALLEST_PIECE, end - SMALLEST_PIECE + 1):
            if crossing[place] <= limit and place - found[-1] >= SMALLEST_PIECE:
                found.append(place)
        return found[1:]

    backward = [index for index, node in enumerate(graph.nodes) if node.is_backward]
    halves = sorted({0, *backward[:1], len(graph.nodes)})
    places = {*halves, *(place for half in itertools.pairwise(halves) for place in divide(*half))}
    return list(itertools.pairwise(sorted(places)))


def node_signatures(graph: Graph) -> np.ndarray:
    """int64 (nodes,): equal for nodes that do the same to values of the same types."""
    numbers: dict[str, int] = {}

    def word(name: str) -> object:
        if not name or name in (IMAGE, TARGET) or is_fixed(graph, name):
            return name
        return name in graph.constants, graph.types[name].dtype.name, graph.types[name].shape

    texts = [repr(in_words(node, word)) for node in graph.nodes]
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64)


def longest_repeat(signatures: np.ndarray) -> tuple[int, int, int, int]:
    """(start, period, count, slack) of the contiguous repetition that saves most nodes, (count - 1) x period. It could
    as well begin at any of the `slack` nodes after `start`."""
    best = (0, 1, 1, 0)
    for period in range(1, len(signatures) // 2 + 1):
        equal = np.concatenate([[False], signatures[:-period] == signatures[period:], [False]])
        edges = np.flatnonzero(equal[1:] != equal[:-1])
        starts, lengths = edges[::2], edges[1::2] - edges[::2]
        if not len(lengths):
            continue
        longest = int(lengths.argmax())
        length = int(lengths[longest])
        count = length // period + 1
        if (count - 1) * period > (best[2] - 1) * best[1]:
            best = (int(starts[longest]), period, count, length - (count - 1) * period)
    return best


def crossing_bytes(graph: Graph) -> list[int]:
    """For each place between two nodes, the bytes of the values made before it and read after it. Views are free, and
    so are values of the forward pass that the backward pass reads, for they are in memory anyway."""
    made: dict[str, int] = {}
    last: dict[str, int] = {}
    origin: dict[str, str] = {}
    for index, node in enumerate(graph.nodes):
        for name in node.inputs:
            last[origin.get(name, name)] = index
        if node.operator == VIEW:
            origin[node.outputs[0]] = origin.get(node.inputs[0], node.inputs[0])
        else:
            made |= {name: index for name in node.outputs if name}
    steps = [0] * (len(graph.nodes) + 2)
    for name, index in made.items():
        end = last.get(name, index)
        if graph.nodes[index].is_backward == graph.nodes[end].is_backward:
            size = graph.types[name].bytes(NOMINAL_BATCH)
            steps[index + 1] += size
            steps[end + 1] -= size
    return np.cumsum(steps)[:-1].tolist()
