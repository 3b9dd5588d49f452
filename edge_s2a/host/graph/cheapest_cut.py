"""Finds where a graph is cut with the fewest numbers: what must be known of an image, and computed no more.

By Menger's theorem the smallest set of values that all paths from the image to the trained part pass is as large as the
largest flow through them, each value letting as much through as it has bytes (Ford and Fulkerson, 1956). Of several
such sets it takes the one farthest from the image: then least remains to be computed.
"""

import math
from collections import deque
from collections.abc import Iterable

from edge_s2a.artifact.names import IMAGE
from edge_s2a.host.graph.ir import FLOAT32, VIEW, Batch, Graph, TensorType

UNLIMITED = math.inf
Vertex = tuple[str, bool]  # a value, and whether it is behind its own capacity


def cheapest_cut(graph: Graph, of_image: set[str], wanted: Iterable[str]) -> list[str]:
    """Values, in the order in which they are computed, without which none of `wanted` follows from the image.

    of_image: the values that depend on the image and on nothing trained, `wanted` among them. Chosen are float32 values
    with a batch axis, no views and not the image itself. Raises ValueError if there is no such cut.
    """
    flow = Flow()
    for name in of_image:
        flow.allow((name, False), (name, True), capacity_of(name, graph))
    for node in graph.nodes:
        if node.operator == "Shape":
            continue
        reads = [name for name in node.inputs if name in of_image]
        for output in node.outputs:
            if output in of_image:
                if node.operator == VIEW:
                    flow.unlimit((output, False), (output, True))
                for name in reads:
                    flow.allow((name, True), (output, False), UNLIMITED)
    for name in wanted:
        flow.allow((name, True), SINK, UNLIMITED)
    flow.fill((IMAGE, False), SINK)
    reaches_sink = flow.reaching(SINK)
    cut = {name for name in of_image if (name, True) in reaches_sink and (name, False) not in reaches_sink}
    if any(capacity_of(name, graph) == UNLIMITED for name in cut) or not cut:
        raise ValueError("the trained part reads the image itself")
    return [output for node in graph.nodes for output in node.outputs if output in cut]


def capacity_of(name: str, graph: Graph) -> float:
    """Numbers per image; unlimited where a value cannot be kept."""
    kind = graph.types[name]
    return UNLIMITED if name == IMAGE or not can_be_kept(kind) else math.prod(
        size.times if isinstance(size, Batch) else size for size in kind.shape
    )  # fmt: skip


def can_be_kept(kind: TensorType) -> bool:
    return kind.dtype == FLOAT32 and bool(kind.shape) and isinstance(kind.shape[0], Batch)


SINK: Vertex = ("", True)


class Flow:
    """A network with capacities, and the flow through it."""

    def __init__(self) -> None:
        self._left: dict[Vertex, dict[Vertex, float]] = {}

    def allow(self, start: Vertex, end: Vertex, capacity: float) -> None:
        self._left.setdefault(start, {})[end] = capacity
        self._left.setdefault(end, {}).setdefault(start, 0)

    def unlimit(self, start: Vertex, end: Vertex) -> None:
        self.allow(start, end, UNLIMITED)

    def fill(self, source: Vertex, sink: Vertex) -> None:
        """Sends as much as possible, along shortest paths (Edmonds and Karp, 1972)."""
        while path := self._path(source, sink):
            amount = min(self._left[start][end] for start, end in path)
            if amount == UNLIMITED:
                raise ValueError("the trained part reads the image itself")
            for start, end in path:
                self._left[start][end] -= amount
                self._left[end][start] += amount

    def _path(self, source: Vertex, sink: Vertex) -> list[tuple[Vertex, Vertex]]:
        came_from: dict[Vertex, Vertex] = {source: source}
        waiting = deque([source])
        while waiting and sink not in came_from:
            vertex = waiting.popleft()
            for end, left in self._left[vertex].items():
                if left > 0 and end not in came_from:
                    came_from[end] = vertex
                    waiting.append(end)
        path: list[tuple[Vertex, Vertex]] = []
        vertex = sink
        while vertex in came_from and vertex != source:
            path.append((came_from[vertex], vertex))
            vertex = came_from[vertex]
        return path[::-1]

    def reaching(self, sink: Vertex) -> set[Vertex]:
        """The vertices from which more could still flow to the sink."""
        found, waiting = {sink}, deque([sink])
        while waiting:
            vertex = waiting.popleft()
            for start in self._left[vertex]:
                if start not in found and self._left[start][vertex] > 0:
                    found.add(start)
                    waiting.append(start)
        return found
