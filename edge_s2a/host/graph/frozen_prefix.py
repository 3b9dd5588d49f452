"""Splits off the backbone where nothing that is trained acts in it: its features depend on the image alone.

The rule, on the graph: it is split if no frozen parameter is read behind a trained tensor. The whole backbone is then
computed before anything trained, and no gradient enters it. What the trained tensors read of it (the classifier's
input, and whatever an adapter beside the backbone reads) are then the inputs of the graphs "training" and "inference",
and outputs of a graph of their own, "features", whose results the device may keep from one epoch to the next.

Where a trained tensor acts within the backbone, what lies before it (often no more than the stem) is not split off:
most of the work would remain, and what the stem computes is larger than the image. The rule knows parameters only:
constants that an adapter brings along, such as averaging matrices, are buffers of the model and may act anywhere.
"""

import dataclasses
import hashlib

import numpy as np

from edge_s2a.artifact.names import IMAGE, feature
from edge_s2a.errors import UserError
from edge_s2a.host.graph.cheapest_cut import cheapest_cut
from edge_s2a.host.graph.ir import INT64, VIEW, Batch, Graph, Node, TensorType
from edge_s2a.host.graph.passes.dead_code import remove_dead_code
from edge_s2a.host.graph.segment import in_words


def split_features(graphs: dict[str, Graph], trained: set[str], frozen_parameters: set[str]) -> dict[str, Graph]:
    """ "training" and "inference" as graphs of features, and the graph "features" of an image.

    trained, frozen_parameters: inputs of the graphs. Ensures that the image is read by "features" alone, and that
    features of different images lie one after the other. The graphs stay as they are where features do not, and where
    a trained tensor acts within the backbone.
    """
    inference = graphs["inference"]
    tapped = features_of(inference, trained)
    is_batched = all(isinstance(inference.types[value].shape[0], Batch) for value in tapped)
    if not is_batched or acts_within(inference, trained, frozen_parameters):
        return graphs
    return split_at(graphs, tapped)


def cut_features(graphs: dict[str, Graph], trained: set[str]) -> dict[str, Graph]:
    """The same where adapters act in late blocks alone: cut where least has to be kept of an image, as late as
    possible. Raises UserError where they read the image itself."""
    inference = graphs["inference"]
    of_image, of_trained = dependent(inference, trained)
    wanted = {
        name
        for node in inference.nodes
        if node.operator != "Shape" and of_trained.intersection(node.inputs)
        for name in node.inputs
        if name in of_image
    }
    try:
        return split_at(graphs, cheapest_cut(inference, of_image, wanted))
    except ValueError as error:
        raise UserError(f"--from-block: {error}; give a later block") from error


def split_at(graphs: dict[str, Graph], tapped: list[str]) -> dict[str, Graph]:
    """The graphs of features, cut at these values of "inference"."""
    inference, training = graphs["inference"], graphs["training"]
    digests = value_digests(inference)
    names = {digests[value]: feature(number) for number, value in enumerate(tapped)}
    return {
        "features": features_graph(inference, {value: names[digests[value]] for value in tapped}),
        "training": from_features(training, names),
        "inference": from_features(inference, names),
    }


def acts_within(graph: Graph, trained: set[str], frozen_parameters: set[str]) -> bool:
    """Whether a node that depends on a trained tensor reads a frozen parameter, as it is stored or dequantised."""
    of_image, of_trained = dependent(graph, trained)
    of_parameters = set(frozen_parameters)
    for node in graph.nodes:
        if node.operator == "Shape" or not of_parameters.intersection(node.inputs):
            continue
        if of_trained.intersection(node.inputs):
            return True
        if not of_image.intersection(node.inputs):
            of_parameters.update(node.outputs)
    return False


def features_of(graph: Graph, trained: set[str]) -> list[str]:
    """The values that depend on the image and on nothing trained, and are read by nodes that depend on it; views under
    the name of what they view. Sizes are none."""
    viewed = {node.outputs[0]: node.inputs[0] for node in graph.nodes if node.operator == VIEW}
    of_image, of_trained = dependent(graph, trained)
    readers = [node for node in graph.nodes if node.operator != "Shape" and of_trained.intersection(node.inputs)]
    return list(dict.fromkeys(origin(name, viewed) for node in readers for name in node.inputs if name in of_image))


def dependent(graph: Graph, trained: set[str]) -> tuple[set[str], set[str]]:
    """The values that depend on the image and on nothing trained, and those that depend on a trained tensor, `trained`
    among them. Sizes depend on neither."""
    of_image, of_trained = {IMAGE}, set(trained)
    for node in graph.nodes:
        if node.operator == "Shape":
            continue
        if of_trained.intersection(node.inputs):
            of_trained.update(node.outputs)
        elif of_image.intersection(node.inputs):
            of_image.update(node.outputs)
    return of_image, of_trained


def origin(name: str, viewed: dict[str, str]) -> str:
    while name in viewed:
        name = viewed[name]
    return name


def value_digests(graph: Graph) -> dict[str, str]:
    """Equal for values of two graphs that are computed alike from inputs and constants of the same names."""
    digests: dict[str, str] = {}
    for node in graph.nodes:
        text = repr(in_words(node, lambda name: digests.get(name, name))[:-1])
        for place, name in enumerate(node.outputs):
            digests[name] = hashlib.sha256(f"{text} {place}".encode()).hexdigest()
    return digests


def features_graph(graph: Graph, names: dict[str, str]) -> Graph:
    """What computes the values that are the keys of `names`, under these names, from the image."""

    def renamed(values: list[str]) -> list[str]:
        return [names.get(value, value) for value in values]

    nodes = [
        dataclasses.replace(node, inputs=renamed(node.inputs), outputs=renamed(node.outputs)) for node in graph.nodes
    ]
    types = graph.types | {new: graph.types[old] for old, new in names.items()}
    return pruned(Graph("features", graph.inputs, list(names.values()), nodes, dict(graph.constants), types))


def from_features(graph: Graph, names: dict[str, str]) -> Graph:
    """The graph with values of the digests in `names` as inputs, under these names, instead of the image."""
    inputs = {value: names[digest] for value, digest in value_digests(graph).items() if digest in names}
    types = graph.types | {new: graph.types[old] for old, new in inputs.items()}
    constants = dict(graph.constants)
    counted = min(names.values(), key=lambda name: rows_of_image(types[name]))
    rows = rows_of_image(types[counted])
    nodes = []
    for node in graph.nodes:
        if inputs.keys() & set(node.outputs):
            continue
        reads = [inputs.get(name, name) for name in node.inputs]
        if node.operator == "Shape" and reads == [IMAGE]:
            reads = [counted]
            if rows > 1:  # then the images are counted by their rows
                (images,) = node.outputs
                all_rows, per_image = f"{images}.rows", f"{images}.per_image"
                types |= {all_rows: types[images], per_image: types[images]}
                constants[per_image] = np.array([rows], INT64)
                nodes.append(dataclasses.replace(node, inputs=reads, outputs=[all_rows]))
                nodes.append(Node("Div", [all_rows, per_image], [images]))
                continue
        nodes.append(dataclasses.replace(node, inputs=reads, outputs=list(node.outputs)))
    names_read = [*names.values(), *graph.inputs]
    split = pruned(Graph(graph.name, names_read, graph.outputs, nodes, constants, types))
    if IMAGE in split.inputs:
        raise AssertionError(f"the graph {graph.name} computes features otherwise than the other one")
    return split


def rows_of_image(kind: TensorType) -> int:
    """How many rows an image has in a value with a batch axis."""
    first = kind.shape[0]
    assert isinstance(first, Batch), "features have a batch axis"
    return first.times


def pruned(graph: Graph) -> Graph:
    """Without what no output depends on."""
    graph = remove_dead_code(graph)
    read = {name for node in graph.nodes for name in node.inputs}
    return dataclasses.replace(graph, inputs=[name for name in graph.inputs if name in read])


def shapes_of_features(graphs: dict[str, Graph]) -> dict[str, list[int]]:
    """name -> shape for one image; an array holds those of a batch one after the other along the first axis."""
    if "features" not in graphs:
        return {}
    graph = graphs["features"]
    return {
        name: [size.times if isinstance(size, Batch) else size for size in graph.types[name].shape]
        for name in graph.outputs
    }
