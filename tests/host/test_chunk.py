"""Wide layers in parts compute what they compute as a whole, in less memory, in both graphs from the same weights."""

import numpy as np
import onnxruntime
import pytest

from edge_s2a.host.emit import to_onnx
from edge_s2a.host.package import adapt, lower_graphs
from edge_s2a.host.passes.chunk import COUNTS, apply, choices_of, chunk
from edge_s2a.host.passes.sink import live_bytes, sink
from edge_s2a.host.segment import segment
from tests.conftest import options_of

MODELS = {
    "vit": {"adapter_kinds": ("bias", "prompt", "side", "lowrank")},
    "vit, float16": {"weight_format": "fp16"},
    "swin": {
        "model_name": "swin_tiny_patch4_window7_224",
        "model_kwargs": {"img_size": 32, "window_size": 4, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4]},
    },
    "convnext": {"model_name": "convnext_atto", "model_kwargs": {"depths": [1, 1, 1, 1]}, "image_size": 32},
    "mobilenet": {"model_name": "mobilenetv2_035", "model_kwargs": {}, "image_size": 32, "adapter_kinds": ("lowrank",)},
}
# Sums in another order round differently, and a code near a limit may then be its neighbour.
TOLERANCE = 1e-3


@pytest.fixture(scope="module", params=MODELS)
def lowered(request):
    options = options_of(**MODELS[request.param])
    adapted = adapt(options)
    return lower_graphs(options, adapted), adapted


def run(graph, values):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(to_onnx(graph), options, providers=["CPUExecutionProvider"])
    results = session.run(graph.outputs, {entry.name: values[entry.name] for entry in session.get_inputs()})
    return dict(zip(graph.outputs, results, strict=True))


def values_of(graph, adapted, batch):
    rng = np.random.default_rng(batch)
    adapter = {
        name: value.detach().numpy() + rng.normal(0, 0.02, value.shape).astype(np.float32)
        for name, value in adapted.adapter.items()
    }
    classes = graph.types["logits"].shape[1]
    image = rng.normal(size=(batch, *graph.types["image"].shape[1:])).astype(np.float32)
    target = np.eye(classes, dtype=np.float32)[rng.integers(0, classes, batch)] / batch
    return {**adapter, "image": image, "target": target}


@pytest.mark.parametrize("count", COUNTS)
def test_parts_compute_what_the_whole_does(lowered, count):
    """Every result, every tensor whole: logits and each gradient, by the norm of the difference."""
    graphs, adapted = lowered
    weights = adapted.frozen.arrays
    choices = [choice for choice in choices_of(graphs, set(weights)) if count in choice.regions]
    choices = [choice._replace(regions={count: choice.regions[count]}) for choice in choices]
    if not choices:
        pytest.skip(f"no layer of this model has {count} equal parts")
    chunked = apply(graphs, weights, choices, 0)
    for name, graph in graphs.items():
        assert len(chunked.graphs[name].nodes) > len(graph.nodes)
        values = values_of(graphs["training"], adapted, 3) | weights | chunked.arrays
        expected, found = run(graph, values), run(sink(chunked.graphs[name]), values)
        largest = (
            max(np.linalg.norm(value) for key, value in expected.items() if key.startswith("gradient"))
            if name == "training"
            else 0
        )
        for key, value in expected.items():
            # A key's bias has no gradient but rounding.
            error = np.linalg.norm(found[key] - value)
            assert error <= TOLERANCE * np.linalg.norm(value) + 1e-5 * largest, key


def test_graphs_read_the_same_parts_and_no_weight_twice(lowered):
    graphs, adapted = lowered
    weights = adapted.frozen.arrays
    chunked = chunk(graphs, weights)
    training, inference = (set(chunked.graphs[name].inputs) for name in ("training", "inference"))
    assert inference - {"image"} <= training
    before = sum(weights[name].nbytes for name in graphs["training"].inputs if name in weights)
    stored = weights | chunked.arrays
    assert sum(stored[name].nbytes for name in training if name in stored) == before


def test_parts_of_a_weight_are_the_weight(lowered):
    """As sets of values: which part holds which is what the results are compared for."""
    graphs, adapted = lowered
    chunked = chunk(graphs, adapted.frozen.arrays)
    whole = {name.rpartition("[")[0] for name in chunked.arrays}
    for name in whole:
        parts = [array.ravel() for part, array in chunked.arrays.items() if part.startswith(f"{name}[")]
        assert np.array_equal(np.sort(np.concatenate(parts)), np.sort(adapted.frozen.arrays[name].ravel()))


def test_live_peak_never_rises(lowered):
    graphs, adapted = lowered
    chunked = chunk(graphs, adapted.frozen.arrays).graphs
    for name, graph in graphs.items():
        for batch in (1, 8):
            assert live_bytes(chunked[name], batch) <= live_bytes(sink(graph), batch)


def test_a_transformer_of_real_width_needs_half():
    """At 224 px the hidden layer and the scores of attention outweigh everything else; its blocks stay alike."""
    kwargs = {"depth": 2}
    options = options_of(model_name="deit_tiny_patch16_224", model_kwargs=kwargs, levels="uniform")
    adapted = adapt(options)
    graphs = lower_graphs(options, adapted)
    whole, parts = sink(graphs["training"]), chunk(graphs, adapted.frozen.arrays).graphs
    assert live_bytes(parts["training"], 8) < 0.6 * live_bytes(whole, 8)
    nodes = sum(len(piece.nodes) for piece in segment(parts).graphs)
    assert nodes < len(parts["training"].nodes)


def test_a_graph_without_such_a_layer_is_left_alone():
    options = options_of(model_name="resnet18", model_kwargs={}, image_size=32)
    adapted = adapt(options)
    graphs = lower_graphs(options, adapted)
    chunked = chunk(graphs, adapted.frozen.arrays)
    assert chunked.arrays == {}
    assert {name: len(graph.nodes) for name, graph in chunked.graphs.items()} == {
        name: len(graph.nodes) for name, graph in graphs.items()
    }
