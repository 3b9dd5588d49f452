"""Packs a timm model into a training artifact."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from edge_s2a.artifact import archive, program, tensors
from edge_s2a.artifact.files import make_folder
from edge_s2a.artifact.manifest import FORMAT_VERSION, Manifest, Preprocessing
from edge_s2a.artifact.names import IMAGE, LOGITS, LOSS, TARGET, gradient
from edge_s2a.artifact.onnx_graph import read_onnx_graph
from edge_s2a.artifact.signature import load_private_key
from edge_s2a.host.adapters.inject import inject, starts_of
from edge_s2a.host.adapters.registry import parse_adapter
from edge_s2a.host.golden import OPTIMIZER, golden_step, normalized, random_target
from edge_s2a.host.graph.frozen_prefix import shapes_of_features, split_features
from edge_s2a.host.graph.ir import Graph
from edge_s2a.host.graph.lower import lower
from edge_s2a.host.graph.passes.dead_code import remove_dead_code
from edge_s2a.host.graph.passes.merge_views import merge_views
from edge_s2a.host.graph.passes.rematerialize import rematerialize_constants
from edge_s2a.host.graph.passes.sink import sink
from edge_s2a.host.graph.segment import segment
from edge_s2a.host.scheme.allocate import choose_scheme
from edge_s2a.host.scheme.calibration import calibration_images
from edge_s2a.host.scheme.compute import choose_int8_layers
from edge_s2a.host.sources.batch_norm_fold import fold_batch_norms
from edge_s2a.host.sources.preprocessing import preprocessing_of
from edge_s2a.host.sources.timm import create_model
from edge_s2a.host.targets.onnxruntime.emit import to_onnx
from edge_s2a.host.targets.onnxruntime.liveness import peak_live_bytes, plan_program, saved_bytes_per_image
from edge_s2a.host.trace.capture import Captured, capture_inference, capture_training, observe_saved_tensors
from edge_s2a.host.trace.saved_tensors import SavedTensor, levels_of, mean_bits
from edge_s2a.host.weights import FrozenWeights, freeze, named_constants
from edge_s2a.option import optional_path
from edge_s2a.options import PackOptions
from edge_s2a.plan.lifetimes import to_json
from edge_s2a.plan.verify import plan_errors
from edge_s2a.version import __version__

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

# Images on which levels are fitted and bits allocated.
CALIBRATION_BATCH = 16


@dataclass(frozen=True)
class Adapted:
    """A model ready to be trained: with its adapter, rounded weights, and a scheme for its saved tensors."""

    model: nn.Module
    preprocessing: Preprocessing
    adapter: dict[str, Tensor]
    frozen: FrozenWeights
    scheme: list[SavedTensor]
    int8_layers: list[str] = field(default_factory=list)  # whose products are computed in int8


def pack(options: PackOptions) -> Manifest:
    """Writes an artifact: training and inference graph, frozen weights, initial adapter, golden step, memory plan and
    manifest (docs/FORMAT.md). Returns the manifest. Raises UserError for anything the user can correct.
    """
    output = Path(options.output)
    make_folder(output.parent)
    key = load_private_key(Path(options.sign)) if options.sign else None
    adapted = adapt(options)
    return write_artifact(options, adapted, build_graphs(options, adapted), output, key)


def adapt(options: PackOptions) -> Adapted:
    """Makes the model, injects the adapter, rounds the frozen weights, and chooses how to keep what the backward pass
    needs."""
    kinds, classes, seed = parse_adapter(options.adapter), options.class_count, options.seed
    weights, calibration = optional_path(options.weights), optional_path(options.calibration)
    kwargs = options.model_kwargs or {}
    model = create_model(options.model, kwargs, classes, options.image_size, weights, options.pretrained, seed)
    preprocessing = preprocessing_of(model, options.image_size, options.mean, options.std)
    image_shape = (3, *preprocessing.image_size)
    fold_batch_norms(model, image_shape)
    adapter = inject(model, kinds, image_shape, classes, seed, where="--adapter")
    # From here on the model computes with the rounded weights, as the device will.
    frozen = freeze(named_constants(model, set(adapter)), options.weight_format)

    pixels = calibration_images(calibration, CALIBRATION_BATCH, preprocessing, seed)
    batch = normalized(pixels, preprocessing), random_target(len(pixels), classes, seed)
    int8_layers = choose_int8_layers(model, frozen, options.compute, batch[0])
    observed = observe_saved_tensors(model, adapter, image_shape)
    scheme = choose_scheme(model, adapter, *batch, observed, str(options.saved_bits), options.levels)
    return Adapted(model, preprocessing, adapter, frozen, scheme, int8_layers)


def build_graphs(options: PackOptions, adapted: Adapted) -> dict[str, Graph]:
    """The graphs "training" and "inference" of the adapted model, and "features" if these two need not read the
    image."""
    model, adapter = adapted.model, adapted.adapter
    image_shape = (3, *adapted.preprocessing.image_size)
    training = capture_training(model, adapter, image_shape, options.class_count, adapted.scheme)
    inference = capture_inference(model, adapter, image_shape)
    names = list(adapter)
    outputs = [LOSS, LOGITS, *(gradient(name) for name in names)]
    graphs = {
        "training": to_graph("training", training, adapted, [*names, IMAGE, TARGET], outputs),
        "inference": to_graph("inference", inference, adapted, [*names, IMAGE], [LOGITS]),
    }
    return split_features(graphs, set(names), frozen_parameters(adapted))


def frozen_parameters(adapted: Adapted) -> set[str]:
    """The arrays that hold parameters of the model, but none of its buffers."""
    frozen = adapted.frozen
    return {
        member
        for name, _ in adapted.model.named_parameters()
        if name in frozen.formats
        for member in frozen.members(name)
    }


def to_graph(
    name: str,
    captured: Captured,
    adapted: Adapted,
    inputs: list[str],
    outputs: list[str],
) -> Graph:
    """Lowers a captured computation and runs the passes over it."""
    tensors_of_model = [*adapted.model.named_parameters(), *adapted.model.named_buffers()]
    names = {id(tensor): tensor_name for tensor_name, tensor in tensors_of_model}
    graph = lower(captured, name, inputs, outputs, adapted.frozen, names)
    graph = merge_views(remove_dead_code(graph))
    graph = rematerialize_constants(graph, set(inputs))
    return sink(remove_dead_code(graph), peak_live_bytes)


def write_artifact(
    options: PackOptions,
    adapted: Adapted,
    graphs: dict[str, Graph],
    output: Path,
    key: "Ed25519PrivateKey | None" = None,
) -> Manifest:
    """Cuts the graphs into pieces, plans the memory, records the golden step, and writes everything at once, signed
    with `key` if there is one."""
    model, adapter, scheme = adapted.model, adapted.adapter, adapted.scheme
    kinds = parse_adapter(options.adapter)
    pieces, programs, constants = segment(graphs)
    plans = {name: plan_program(pieces, calls) for name, calls in programs.items()}
    initial = {name: value.detach().numpy() for name, value in adapter.items()}
    golden = golden_step(model, adapter, adapted.preprocessing, options.class_count, scheme, options.seed)
    onnx_graphs = [to_onnx(graph) for graph in pieces]
    members = {
        **{archive.graph_member(number): graph for number, graph in enumerate(onnx_graphs)},
        archive.PROGRAM: program.to_json(programs),
        archive.CONSTANTS: tensors.encode(constants),
        archive.WEIGHTS: tensors.encode(adapted.frozen.arrays),
        archive.ADAPTER: tensors.encode(initial),
        archive.GOLDEN: tensors.encode(golden),
        archive.PLAN: to_json(plans),
    }
    starts = starts_of(kinds, model, adapter, options.class_count)
    errors = plan_errors(plans, programs, [read_onnx_graph(graph) for graph in onnx_graphs])
    if errors:
        raise AssertionError(f"the planner is wrong: {errors[0]}")
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        producer=f"edge-s2a {__version__}",
        model=options.model,
        model_kwargs=options.model_kwargs or {},
        num_classes=options.class_count,
        labels=list(options.labels) if options.labels else None,
        preprocessing=adapted.preprocessing,
        adapter=kinds,
        adapter_shapes={name: list(array.shape) for name, array in initial.items()},
        head=starts.at_class_means,
        low_rank_maps=starts.at_gradient,
        features=shapes_of_features(graphs),
        total_parameters=sum(parameter.numel() for parameter in model.parameters()),
        weight_format=options.weight_format,
        int8_layers=adapted.int8_layers,
        saved_bits=str(options.saved_bits),
        mean_saved_bits=mean_bits(scheme),
        levels=levels_of(scheme),
        saved_bytes_per_image=saved_bytes_per_image(plans["training"].lifetimes),
        golden_optimizer=OPTIMIZER,
        members=archive.digests(members),
    )
    archive.write_archive(output, manifest, members, key)
    return manifest
