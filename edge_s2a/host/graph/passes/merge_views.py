"""Makes each Reshape a view of what another operator wrote, instead of a view of a view."""

from edge_s2a.host.graph.ir import VIEW, Graph, TensorType


def merge_views(graph: Graph) -> Graph:
    """Ensures that no Reshape reads the output of a Reshape, that none leaves the shape unchanged, and that no two give
    the same value the same shape, except for the graph's outputs. Each node takes 4 kB of the engine, even one that
    does nothing."""
    origins: dict[str, str] = {}  # view -> the value that it is a view of
    views: dict[tuple[str, TensorType], str] = {}
    renamed: dict[str, str] = {}
    outputs = set(graph.outputs)
    for node in graph.nodes:
        node.inputs = [renamed.get(name, name) for name in node.inputs]
        if node.operator != VIEW:
            continue
        (result,) = node.outputs
        origin = node.inputs[0] = origins[result] = origins.get(node.inputs[0], node.inputs[0])
        if result in outputs:
            continue
        kind = graph.types[result]
        twin = origin if graph.types[origin] == kind else views.setdefault((origin, kind), result)
        if twin != result:
            renamed[result] = twin
    return graph
