"""Moves nodes down to just before their results are read."""

import dataclasses
from collections import Counter
from collections.abc import Callable

from edge_s2a.host.graph.ir import VIEW, Graph, Node

BATCHES = (1, 8)  # it must pay at both: weights in float32 are large against one image, small against eight


def sink(graph: Graph, peak_live_bytes: Callable[[Graph, int], int]) -> Graph:
    """Ensures that a node stands just before the first one that reads it, if its outputs are no smaller than the inputs
    that would have to wait for it: then no place between needs more memory, and some need less. Only where the node
    itself runs is there more, so an order with a higher peak is rejected. The forward pass stays before the backward
    pass.

    peak_live_bytes(graph, batch): the most bytes live at any node, by the rules of the target.

    torch computes an activation before its derivative; the other way round, the derivative's temporaries are gone when
    the activation is made.
    """
    viewed = {node.outputs[0]: node.inputs[0] for node in graph.nodes if node.operator == VIEW}
    outside = {*graph.inputs, *graph.constants}
    placed: list[Node] = []  # from the last node of the graph to the first
    reads: Counter[str] = Counter()  # by the placed nodes; a view counts as the value it is a view of

    def sources(node: Node) -> set[str]:
        return {viewed.get(name, name) for name in node.inputs if name} - outside

    def size(names: list[str], batch: int) -> int:
        return sum(graph.types[name].bytes(batch) for name in names if name)

    def nodes_before_first_reader(node: Node) -> int:
        """How many of the next nodes may come before `node`."""
        results = set(node.outputs)
        for count, later in enumerate(reversed(placed)):
            if results.intersection(later.inputs):
                return count
            if later.is_backward != node.is_backward:
                break
        return 0

    for node in reversed(graph.nodes):
        count = nodes_before_first_reader(node)
        while count and not sources(placed[-count]):
            count -= 1  # a weight that the reader needs in float32 stays right before it
        if count and node.operator != VIEW:
            passed = Counter(name for later in placed[-count:] for name in sources(later))
            waiting = [name for name in sources(node) if reads[name] == passed[name]]
            all_along = [name for name in waiting if not passed[name]]
            for batch in BATCHES:
                made = size(node.outputs, batch)
                if made <= size(all_along, batch) or made < size(waiting, batch):
                    count = 0
        placed.insert(len(placed) - count, node)
        reads.update(sources(node))
    sunk = dataclasses.replace(graph, nodes=placed[::-1])
    is_no_worse = all(peak_live_bytes(sunk, batch) <= peak_live_bytes(graph, batch) for batch in BATCHES)
    return sunk if is_no_worse else graph
