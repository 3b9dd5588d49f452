"""Computes wide layers one part after the other: the hidden layer of an MLP, the heads of attention."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from edge_s2a.artifact.names import IMAGE
from edge_s2a.host.ir import VIEW, Batch, Graph, Node, TensorType
from edge_s2a.host.passes.dead_code import remove_dead_code
from edge_s2a.host.passes.merge_views import merge_views
from edge_s2a.host.passes.sink import BATCHES, live_bytes, sink
from edge_s2a.host.regions import HALVES, Place, Region, in_turn, part_of, regions
from edge_s2a.host.segment import segment

SCALAR = TensorType(np.dtype(np.int64), (1,))
COUNTS = (2, 3, 4, 6, 8)
# A finer division must save this share of what training the whole graph needs.
WORTHWHILE = 0.02
# What the engine keeps for a node, and for a graph beside its nodes (DeiT-Tiny planned with 33 graphs and with 13).
NODE_BYTES = 4500
GRAPH_BYTES = 180_000


class Chunked(NamedTuple):
    """Graphs, and the arrays that they read instead of whole frozen weights."""

    graphs: dict[str, Graph]
    arrays: dict[str, np.ndarray]


class Choice(NamedTuple):
    """What to do about one layer: the region of it in each graph that has one, by count of parts."""

    width: int  # bytes an image of the widest tensor
    regions: dict[int, dict[str, Region]]


def chunk(graphs: dict[str, Graph], weights: dict[str, np.ndarray]) -> Chunked:
    """Ensures that no tensor of a region (host/regions.py) is wider than some limit. What is live in a graph does not
    rise at batch 1 or 8, and training at batch 8 needs less, what its graphs need to be loaded included. Results are
    the same but for the order of some sums. The frozen weights of a region are stored in parts, and all graphs read
    the same parts.

    A limit in bytes an image, rather than a count of parts a layer, leaves blocks that are alike alike, and narrow
    layers alone. graphs must hold "training". weights: the arrays that graphs may name as inputs.
    """
    choices = choices_of(graphs, set(weights))
    best = sunk(Chunked(graphs, {}))
    whole, least = cost(best), 1.0
    for limit in limits(choices):
        divided = sunk(apply(graphs, weights, choices, limit))
        needed = cost(divided)
        if any(new > old for new, old in zip(needed.live_bytes, whole.live_bytes, strict=True)):
            continue
        share = needed.training_bytes() / whole.training_bytes()
        if share < least - WORTHWHILE:
            best, least = divided, share
    return best._replace(graphs={name: remove_dead_code(merge_views(graph)) for name, graph in best.graphs.items()})


def sunk(chunked: Chunked) -> Chunked:
    return chunked._replace(graphs={name: sink(graph) for name, graph in chunked.graphs.items()})


class Cost(NamedTuple):
    """What graphs need of memory: to run, for each graph and each of BATCHES, and to be loaded."""

    live_bytes: list[int]
    loaded_bytes: int

    def training_bytes(self) -> int:
        """At the largest of BATCHES."""
        return self.live_bytes[len(BATCHES) - 1] + self.loaded_bytes


def cost(chunked: Chunked) -> Cost:
    ordered = sorted(chunked.graphs, reverse=True)  # training is first
    live = [live_bytes(chunked.graphs[name], batch) for name in ordered for batch in BATCHES]
    loaded = [GRAPH_BYTES + NODE_BYTES * len(piece.nodes) for piece in segment(chunked.graphs).graphs]
    return Cost(live, sum(loaded))


def choices_of(graphs: dict[str, Graph], frozen: set[str]) -> list[Choice]:
    """The layers that can be divided in every graph alike."""
    found: dict[frozenset, dict[int, dict[str, Region]]] = {}
    for count in COUNTS:
        for name, graph in graphs.items():
            for region in regions(graph, frozen, count):
                key = frozenset(region.weights(frozen).items())
                found.setdefault(key, {}).setdefault(count, {})[name] = region
    choices = []
    for key, by_count in found.items():
        readers = [name for name, graph in graphs.items() if not {weight for weight, _ in key}.isdisjoint(graph.inputs)]
        by_count = {count: named for count, named in by_count.items() if set(named) == set(readers)}
        widths = [
            graphs[name].types[value].bytes_per_image()
            for named in by_count.values()
            for name, region in named.items()
            for places in region.places
            for value in places
        ]
        if by_count:
            choices.append(Choice(max(widths), by_count))
    return choices


def limits(choices: list[Choice]) -> list[int]:
    """The widths that parts of the widest layer may have."""
    widest = max((choice.width for choice in choices), default=0)
    return [widest // count for count in COUNTS] if choices else []


def apply(graphs: dict[str, Graph], weights: dict[str, np.ndarray], choices: list[Choice], limit: int) -> Chunked:
    """Divides each layer that is wider than `limit` into as many parts as that takes, or as can be."""
    arrays: dict[str, np.ndarray] = {}
    divided = dict(graphs)
    for choice in choices:
        if choice.width <= limit:
            continue
        enough = [count for count in choice.regions if choice.width // count <= limit]
        count = min(enough, default=max(choice.regions))
        chosen = choice.regions[count]
        if any(in_turn(divided[name], region, half) is None for name, region in chosen.items() for half in HALVES):
            continue
        for name, region in chosen.items():
            divided[name], used = divide(divided[name], region, weights)
            arrays |= used
    return Chunked({name: remove_dead_code(graph) for name, graph in divided.items()}, arrays)


def divide(graph: Graph, region: Region, weights: dict[str, np.ndarray]) -> tuple[Graph, dict[str, np.ndarray]]:
    """The graph with the parts of `region` one after the other, and the parts of weights that it reads."""
    writer = Writer(graph, region, weights)
    nodes = list(graph.nodes)
    for is_backward in reversed(HALVES):  # the later half first: places in `nodes` stay valid
        turn = in_turn(graph, region, is_backward)
        if turn.inside:
            nodes[turn.start : turn.end] = [*turn.before, *writer.half(turn.inside, is_backward), *turn.after]
    inputs = [name for name in graph.inputs if name not in region.weights(set(weights))]
    constants = graph.constants | writer.constants
    types = graph.types | writer.types
    return (
        dataclasses.replace(graph, inputs=inputs + list(writer.arrays), nodes=nodes, constants=constants, types=types),
        writer.arrays,
    )


class Writer:
    """Writes the parts of one region."""

    def __init__(self, graph: Graph, region: Region, weights: dict[str, np.ndarray]):
        self.graph, self.region, self.weights = graph, region, weights
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.types: dict[str, TensorType] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self.is_backward = False

    def half(self, inside: list[tuple[Node, dict[str, Place]]], is_backward: bool) -> list[Node]:
        self.nodes, self.is_backward = [], is_backward
        made = {name for node, _ in inside for name in node.outputs}
        cut = {name: place for _, places in inside for name, place in places.items() if name in self.region.cut}
        parts = {name: self.parts_from(name, place) for name, place in cut.items()}
        for node, places in inside:
            if not set(node.outputs) & set(places):
                self.begin_sum(node)
        for part in range(self.region.count):
            for node, places in inside:
                self.part_of_node(node, places, part, parts)
        for name, place in self.region.joined.items():
            if name in made:
                self.join(name, place)
        return self.nodes

    def emit(self, operator: str, inputs: list[str], outputs: list[str], **attributes) -> None:
        self.nodes.append(Node(operator, inputs, outputs, attributes, "", self.is_backward))

    def constant(self, values: Any, dtype: type = np.int64) -> str:
        array = np.asarray(values, dtype)
        name = f"constant_{array.dtype}_{'x'.join(map(str, array.shape))}_{array.tobytes().hex()}"
        self.constants[name], self.types[name] = array, TensorType(array.dtype, array.shape)
        return name

    def value(self, name: str, part: int, place: Place) -> str:
        """The name of one part of a tensor that the region makes."""
        own = f"{name}[{part}]"
        self.types[own] = part_of(self.graph.types[name], place, self.region.count)
        return own

    def part_of_node(self, node: Node, places: dict[str, Place], part: int, parts: dict[str, list[str]]) -> None:
        def own(name: str) -> str:
            if name not in places:
                return name
            return parts[name][part] if name in parts else self.value(name, part, places[name])

        inputs, outputs = [own(name) for name in node.inputs], [own(name) for name in node.outputs]
        attributes = dict(node.attributes)
        if node.operator == VIEW:
            kind = part_of(self.graph.types[node.outputs[0]], places[node.outputs[0]], self.region.count)
            inputs[1] = self.constant([-1 if isinstance(size, Batch) else size for size in kind.shape])
        if attributes.get("group", 1) > 1:
            attributes["group"] //= self.region.count
        if outputs == node.outputs:
            self.add_up(node, inputs, part)
        else:
            self.nodes.append(Node(node.operator, inputs, outputs, attributes, node.domain, node.is_backward))

    def begin_sum(self, node: Node) -> None:
        """What the parts of a product are added to: its bias or zero. So that all parts do the same, the first too."""
        (result,) = node.outputs
        kind = self.graph.types[result]
        bias = node.inputs[2] if len(node.inputs) > 2 else self.constant(0, np.float32)
        if node.operator == "Conv" and len(node.inputs) > 2:
            column = f"{result}[bias]"
            self.types[column] = TensorType(kind.dtype, (kind.shape[1], *[1] * (len(kind.shape) - 2)))
            self.reshape(bias, column)
            bias = column
        self.types[self.sum_before(result, 0)] = kind
        self.emit("Expand", [bias, self.shape(result, kind.shape)], [self.sum_before(result, 0)])

    def add_up(self, node: Node, inputs: list[str], part: int) -> None:
        """Adds one part's product to those before."""
        (result,) = node.outputs
        before, total = self.sum_before(result, part), self.sum_before(result, part + 1)
        self.types[total] = self.graph.types[result]
        attributes = dict(node.attributes)
        if node.operator == "Gemm":
            attributes["beta"] = 1.0
            self.emit("Gemm", [*inputs[:2], before], [total], **attributes)
            return
        product = f"{result}[term {part}]"
        self.types[product] = self.graph.types[result]
        self.nodes.append(Node(node.operator, inputs[:2], [product], attributes, node.domain, node.is_backward))
        self.emit("Add", [before, product], [total])

    def sum_before(self, result: str, part: int) -> str:
        return result if part == self.region.count else f"{result}[:{part}]"

    def shape(self, stem: str, shape: tuple) -> str:
        """int64 (rank,): the shape at run time."""
        batch = next((size for size in shape if isinstance(size, Batch)), None)
        if batch is None:
            return self.constant(shape)
        images, rows, whole = (f"{stem}[{what}]" for what in ("images", "rows", "shape"))
        self.types |= {images: SCALAR, rows: SCALAR, whole: TensorType(SCALAR.dtype, (len(shape),))}
        self.emit("Shape", [IMAGE], [images], start=0, end=1)
        self.emit("Mul", [images, self.constant([batch.times])], [rows])
        parts = [rows if size is batch else self.constant([size]) for size in shape]
        self.emit("Concat", parts, [whole], axis=0)
        return whole

    def parts_from(self, name: str, place: Place) -> list[str]:
        """The names of the parts of a value from outside: a constant's and a frozen weight's are stored, another's are
        copied when they are needed."""
        kind = self.graph.types[name]
        stored = self.weights.get(name, self.graph.constants.get(name))
        if stored is None:
            return self.split(name, place)
        known = self.arrays if name in self.weights else self.constants
        names = []
        for part in range(self.region.count):
            names.append(f"{name}[{':,' * place.dimension}{part}/{self.region.count}]")
            known[names[-1]] = part_of_array(stored, place, part, self.region.count)
            self.types[names[-1]] = part_of(kind, place, self.region.count)
        return names

    def split(self, name: str, place: Place) -> list[str]:
        count, stem = self.region.count, f"{name}{':backward' * self.is_backward}"
        names, pieces = ([f"{stem}[{what}{part}]" for part in range(count)] for what in ("", "blocks "))
        blocks, dimension = self.blocks_apart(name, f"{stem}[blocks]", pieces, place)
        self.types |= dict.fromkeys(names, part_of(self.graph.types[name], place, count))
        self.reshape(name, blocks)
        self.emit("Split", [blocks, self.constant([place.block // count] * count)], pieces, axis=dimension)
        for piece, own in zip(pieces, names, strict=True):
            self.reshape(piece, own)
        return names

    def join(self, name: str, place: Place) -> None:
        count = self.region.count
        pieces = [f"{name}[blocks {part}]" for part in range(count)]
        blocks, dimension = self.blocks_apart(name, f"{name}[blocks]", pieces, place)
        for part, piece in enumerate(pieces):
            self.reshape(self.value(name, part, place), piece)
        self.emit("Concat", pieces, [blocks], axis=dimension)
        self.reshape(blocks, name)

    def blocks_apart(self, name: str, blocks: str, pieces: list[str], place: Place) -> tuple[str, int]:
        """Declares `blocks`, the tensor `name` with the axis a dimension of its own, and its pieces; returns it and the
        dimension."""
        kind = self.graph.types[name]
        dimension = place.dimension + 1
        before, after = kind.shape[: place.dimension], kind.shape[dimension:]
        outer = kind.shape[place.dimension] // place.block
        self.types[blocks] = TensorType(kind.dtype, (*before, outer, place.block, *after))
        part = TensorType(kind.dtype, (*before, outer, place.block // self.region.count, *after))
        self.types |= dict.fromkeys(pieces, part)
        return blocks, dimension

    def reshape(self, source: str, result: str) -> None:
        kind = self.types.get(result) or self.graph.types[result]
        self.emit(VIEW, [source, self.constant(list(kind.shape))], [result], allowzero=1)


def part_of_array(array: np.ndarray, place: Place, part: int, count: int) -> np.ndarray:
    shape = array.shape
    before, after = shape[: place.dimension], shape[place.dimension + 1 :]
    blocks = array.reshape(*before, -1, count, place.block // count, *after)
    chosen = blocks.take(part, axis=place.dimension + 1)
    return np.ascontiguousarray(chosen.reshape(*before, -1, *after))
