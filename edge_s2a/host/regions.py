"""Regions of a graph that can be computed one part of an axis after the other, such as the hidden layer of an MLP."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from edge_s2a.host.axes import axes
from edge_s2a.host.ir import VIEW, Batch, Dimension, Graph, Node, TensorType

HALVES = (False, True)  # forward and backward, by Node.is_backward


class Place(NamedTuple):
    """Where a region's axis lies in a tensor: it is the blocks of `block` places that follow each other along
    `dimension`, each of which is cut into the same number of parts."""

    dimension: int
    block: int


class Region(NamedTuple):
    """Nodes that work along one axis, in execution order, and what each of them reads and makes along it."""

    count: int  # parts of the axis
    nodes: list[Node]
    places: list[dict[str, Place]]  # for each node: value -> where the axis lies in it
    cut: dict[str, Place]  # values from outside that are to be cut into parts
    joined: dict[str, Place]  # values whose parts are to be joined, for others read them whole

    def weights(self, frozen: set[str]) -> dict[str, Place]:
        return {name: place for name, place in self.cut.items() if name in frozen}


class Links(NamedTuple):
    """Of a graph: which node makes a value, and which read it."""

    producer: dict[str, Node]
    readers: dict[str, list[Node]]


def links_of(graph: Graph) -> Links:
    links = Links({}, {})
    for node in graph.nodes:
        links.producer.update(dict.fromkeys(node.outputs, node))
        for name in dict.fromkeys(node.inputs):
            links.readers.setdefault(name, []).append(node)
    return links


def regions(graph: Graph, frozen: set[str], count: int) -> list[Region]:
    """The regions that can be cut into `count` parts, none of which shares a node with another. frozen: the graph's
    inputs that are stored in the file, and so can be stored in parts."""
    links = links_of(graph)
    found: list[Region] = []
    known: set[str] = set()
    for value, place in seeds(graph, count):
        if value in known:
            continue
        region = region_from(graph, links, frozen, value, place, count)
        if region is None or not region.weights(frozen) or not all(in_turn(graph, region, half) for half in HALVES):
            continue
        touched = {name for places in region.places for name in places}
        if not known & touched:
            found.append(region)
            known |= touched
    return found


def seeds(graph: Graph, count: int) -> Iterator[tuple[str, Place]]:
    """Where regions may lie: the channels that a product widens, and the heads of attention."""
    for node in graph.nodes:
        result = node.outputs[0]
        shape = graph.types[result].shape if result else ()
        if node.operator in ("Conv", "Gemm") and not node.is_backward:
            widths = graph.types[node.inputs[0]].shape[1], shape[1]
            is_wider = not any(isinstance(width, Batch) for width in widths) and widths[1] > widths[0]
            if is_wider and shape[1] % count == 0:
                yield result, Place(1, shape[1])
        elif node.operator == "Softmax":
            for dimension, size in enumerate(shape[:-2]):
                if times(size) % count == 0:
                    yield result, Place(dimension, times(size))


def region_from(graph: Graph, links: Links, frozen: set[str], value: str, place: Place, count: int) -> Region | None:
    """The region of `value`: every batched tensor along the axis is made and read by nodes that work along it, and so
    is every frozen weight; None if some are not. Small tensors may be cut from whole ones, and joined."""
    places = {value: place}
    chosen: dict[int, dict[str, Place]] = {}
    cut, joined = {}, {}
    waiting = [value]
    while waiting:
        name = waiting.pop()
        place = places[name]
        is_batched = graph.types[name].is_batched()
        maker = links.producer.get(name)
        neighbours = links.readers.get(name, [])
        if maker is not None:
            neighbours = [maker, *neighbours]
        elif is_batched:
            return None
        else:
            cut[name] = place
            if name not in frozen:
                continue  # whoever reads it elsewhere reads it whole
        if name in graph.outputs:
            joined[name] = place
        for node in neighbours:
            found = placed(graph, node, name, place, count)
            if found is None:
                if is_batched or name in frozen:
                    return None
                (cut if node is maker else joined)[name] = place
                continue
            if chosen.setdefault(id(node), found) != found:
                return None
            for other, its_place in found.items():
                if other not in places:
                    waiting.append(other)
                if places.setdefault(other, its_place) != its_place:
                    return None
    if any(graph.types[name].is_batched() for name in joined):
        return None
    nodes = [node for node in graph.nodes if id(node) in chosen]
    joined = {name: place for name, place in joined.items() if name not in cut}
    return Region(count, nodes, [chosen[id(node)] for node in nodes], cut, joined)


def placed(graph: Graph, node: Node, name: str, place: Place, count: int) -> dict[str, Place] | None:
    """Where the axis lies in everything that `node` reads and makes, given that it lies at `place` in `name`; None if
    the node does not work along it."""
    shapes = {operand: graph.types[operand].shape for operand in (*node.inputs, *node.outputs) if operand}
    if node.operator == VIEW:
        source, result = node.inputs[0], node.outputs[0]
        other = result if name == source else source
        moved = in_other_shape(shapes[name], place, shapes[other], count)
        return moved and {name: place, other: moved}
    operands = (*node.inputs, *node.outputs)
    for axis in axes(graph, node):
        along = [
            (operand, d) for operand, d in zip(operands, (*axis.inputs, *axis.outputs), strict=True)
            if operand and d is not None
        ]  # fmt: skip
        if (name, place.dimension) not in along:
            continue
        size = times(shapes[name][place.dimension])
        found: dict[str, Place] = {}
        for operand, dimension in along:
            # A scale stands for a block of codes.
            block, rest = divmod(place.block * times(shapes[operand][dimension]), size)
            if rest or block % count or found.setdefault(operand, Place(dimension, block)) != (dimension, block):
                return None
        return found
    return None


def in_other_shape(
    shape: tuple[Dimension, ...], place: Place, other: tuple[Dimension, ...], count: int
) -> Place | None:
    """Where the axis lies in a view of the same elements. A part is so many consecutive elements in either shape."""
    inner = elements_after(shape, place.dimension)
    if inner is None:
        return None
    elements = place.block * inner
    for dimension, size in enumerate(other):
        after = elements_after(other, dimension)
        if after is not None and times(size) * after % elements == 0 and elements // count % after == 0:
            return Place(dimension, elements // after)
    return None


def elements_after(shape: tuple[Dimension, ...], dimension: int) -> int | None:
    """The elements at one place along `dimension`; None if their number depends on the batch."""
    inner = shape[dimension + 1 :]
    return None if any(isinstance(size, Batch) for size in inner) else math.prod(inner)


def times(size: Dimension) -> int:
    return size.times if isinstance(size, Batch) else size


def part_of(kind: TensorType, place: Place, count: int) -> TensorType:
    """The type of one part. Raises ValueError if the parts are not equal."""
    shape = list(kind.shape)
    size = shape[place.dimension]
    part, rest = divmod(times(size), count)
    if rest:
        raise ValueError(f"{kind} has no {count} equal parts along {place}")
    shape[place.dimension] = Batch(part) if isinstance(size, Batch) else part
    return TensorType(kind.dtype, tuple(shape))


class Turn(NamedTuple):
    """The nodes of one half of a region, forward or backward, and those that stand between them now."""

    start: int
    end: int
    before: list[Node]
    inside: list[tuple[Node, dict[str, Place]]]
    after: list[Node]


def in_turn(graph: Graph, region: Region, is_backward: bool) -> Turn | None:
    """What to run before, part by part, and after; None if something would have to come both before and after."""
    members = {
        id(node): places
        for node, places in zip(region.nodes, region.places, strict=True)
        if node.is_backward == is_backward
    }
    indices = [index for index, node in enumerate(graph.nodes) if id(node) in members]
    if not indices:
        return Turn(0, 0, [], [], [])
    turn = Turn(indices[0], indices[-1] + 1, [], [], [])
    made: set[str] = set()  # only complete when all parts are done
    for node in graph.nodes[turn.start : turn.end]:
        if id(node) in members:
            places = members[id(node)]
            whole = [name for name in node.inputs if name not in places or name in region.cut]
            if made.intersection(whole):
                return None
            turn.inside.append((node, places))
            made.update(node.outputs)
        elif made.intersection(node.inputs):
            turn.after.append(node)
            made.update(node.outputs)
        else:
            turn.before.append(node)
    return turn
