"""Recomputes, in the backward pass, values that depend on no image and no trained tensor."""

from edge_s2a.artifact.names import IMAGE
from edge_s2a.host.graph.ir import Graph, Node

# Shapes and scalars may wait in memory; attention masks repeated for the batch may not.
SMALL_BYTES = 1024


def rematerialize_constants(graph: Graph, variables: set[str]) -> Graph:
    """Ensures that no value that depends on weights, constants and the batch size alone crosses from the forward to
    the backward pass if it grows with the batch or takes more than SMALL_BYTES.

    variables: the graph's inputs that change from run to run.
    """
    producer: dict[str, Node] = {}
    fixed = {*graph.inputs, *graph.constants} - variables
    for node in graph.nodes:
        reads_values = [name for name in node.inputs if name and not (node.operator == "Shape" and name == IMAGE)]
        if fixed.issuperset(reads_values):
            fixed.update(node.outputs)
        producer |= dict.fromkeys(node.outputs, node)

    def crosses(name: str) -> bool:
        if name not in fixed or name not in producer or producer[name].is_backward:
            return False
        kind = graph.types[name]
        return kind.is_batched() or kind.bytes_constant() > SMALL_BYTES

    nodes: list[Node] = []

    def recompute(name: str) -> str:
        if name not in fixed or name not in producer:
            return name
        node = producer[name]
        copies = [f"{output}_again_{len(nodes)}" for output in node.outputs]
        inputs = [recompute(source) for source in node.inputs]
        graph.types |= {copy: graph.types[output] for copy, output in zip(copies, node.outputs, strict=True)}
        nodes.append(Node(node.operator, inputs, copies, dict(node.attributes), node.domain, True))
        return copies[node.outputs.index(name)]

    for node in graph.nodes:
        if node.is_backward:
            node.inputs = [recompute(name) if crosses(name) else name for name in node.inputs]
        nodes.append(node)
    graph.nodes = nodes
    return graph
