"""Removes nodes, outputs of nodes, and constants that nothing reads."""

from edge_s2a.host.graph.ir import Graph


def remove_dead_code(graph: Graph) -> Graph:
    """Ensures that every node has an output that is read, and that unread outputs have an empty name."""
    needed = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if not needed.intersection(node.outputs):
            continue
        # Split must name all of its outputs; the engine frees those that are not read at once.
        if node.operator != "Split":
            node.outputs = [name if name in needed else "" for name in node.outputs]
            while not node.outputs[-1]:
                node.outputs.pop()
        needed.update(node.inputs)
        kept.append(node)
    graph.nodes = kept[::-1]
    graph.constants = {name: array for name, array in graph.constants.items() if name in needed}
    return graph
