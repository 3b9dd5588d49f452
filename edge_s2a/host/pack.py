"""Packs a timm model into a training artifact."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from edge_s2a.artifact import archive, program, tensors
from edge_s2a.artifact.files import make_folder
from edge_s2a.artifact.manifest import FORMAT_VERSION, Manifest, Preprocessing
from edge_s2a.artifact.names import IMAGE, LOGITS, LOSS, TARGET, gradient, tap
from edge_s2a.artifact.onnx_graph import read_onnx_graph
from edge_s2a.artifact.program import INFERENCE, TAPS, TRAINING
from edge_s2a.artifact.signature import load_private_key
from edge_s2a.host.adapters.depth import first_block
from edge_s2a.host.adapters.inject import inject, starts_of
from edge_s2a.host.adapters.kind import Starts, parameters_below
from edge_s2a.host.adapters.registry import parse_adapter
from edge_s2a.host.golden import OPTIMIZER, golden_step, golden_taps, normalized, random_target
from edge_s2a.host.graph.frozen_prefix import cut_features, shapes_of_features, split_features
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
from edge_s2a.host.sources.timm import classifier_names, create_model
from edge_s2a.host.taps import Tap, capture_taps, find_taps, widths_of
from edge_s2a.host.targets.onnxruntime.emit import to_onnx
from edge_s2a.host.targets.onnxruntime.liveness import peak_live_bytes, plan_program, saved_bytes_per_image
from edge_s2a.host.trace.capture import Captured, capture_inference, capture_training, observe_saved_tensors
from edge_s2a.host.trace.saved_tensors import SavedTensor, levels_of, mean_bits
from edge_s2a.host.weights import FrozenWeights, freeze, named_constants
from edge_s2a.option import optional_path
from edge_s2a.options import NO_ADAPTER, PackOptions
from edge_s2a.plan.lifetimes import to_json
from edge_s2a.plan.verify import plan_errors
from edge_s2a.version import __version__

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

# Images on which levels are fitted and bits allocated.
CALIBRATION_BATCH = 16


@dataclass(frozen=True)
class Adapted:
    """A model ready to be trained: with its adapter, rounded weights, and a scheme for its saved tensors. Without an
    adapter it only learns in one pass."""

    model: nn.Module
    preprocessing: Preprocessing
    adapter: dict[str, Tensor]
    taps: list[Tap]
    frozen: FrozenWeights
    scheme: list[SavedTensor]
    int8_layers: list[str] = field(default_factory=list)  # whose products are computed in int8
    first_block: int = 1  # that adapters act in

    @property
    def image_shape(self) -> tuple[int, ...]:
        return (3, *self.preprocessing.image_size)

    @property
    def tap_widths(self) -> dict[str, int]:
        """name of each statistic, in order -> its numbers per image."""
        return widths_of(self.model, self.image_shape, self.taps)


def pack(options: PackOptions) -> Manifest:
    """Writes an artifact: its programs, frozen weights, initial adapter, golden step, memory plan and manifest
    (docs/FORMAT.md). Returns the manifest. Raises UserError for anything the user can correct.
    """
    output = Path(options.output)
    make_folder(output.parent)
    key = load_private_key(Path(options.sign)) if options.sign else None
    adapted = adapt(options)
    return write_artifact(options, adapted, build_graphs(options, adapted), output, key)


def adapt(options: PackOptions) -> Adapted:
    """Makes the model, injects the adapter, rounds the frozen weights, and chooses how to keep what the backward pass
    needs."""
    kinds, classes, seed = kinds_of(options), options.class_count, options.seed
    weights, calibration = optional_path(options.weights), optional_path(options.calibration)
    kwargs = options.model_kwargs or {}
    # Without an adapter no program reads the head, of which there must be one all the same.
    model = create_model(options.model, kwargs, classes or 1, options.image_size, weights, options.pretrained, seed)
    preprocessing = preprocessing_of(model, options.image_size, options.mean, options.std)
    image_shape = (3, *preprocessing.image_size)
    fold_batch_norms(model, image_shape)
    taps = find_taps(model, image_shape, options.taps)
    first = first_block(model, image_shape, options.from_block)
    adapter = inject(model, kinds, image_shape, classes, seed, where="--adapter", first=first) if kinds else {}
    # From here on the model computes with the rounded weights, as the device will.
    frozen = freeze(named_constants(model, set(adapter)), options.weight_format)

    pixels = calibration_images(calibration, CALIBRATION_BATCH, preprocessing, seed)
    image = normalized(pixels, preprocessing)
    int8_layers = choose_int8_layers(model, frozen, options.compute, image)
    scheme: list[SavedTensor] = []
    if adapter:
        observed = observe_saved_tensors(model, adapter, image_shape)
        target = random_target(len(pixels), classes, seed)
        scheme = choose_scheme(model, adapter, image, target, observed, str(options.saved_bits), options.levels)
    return Adapted(model, preprocessing, adapter, taps, frozen, scheme, int8_layers, first)


def kinds_of(options: PackOptions) -> list[str]:
    """The text form of each kind of adapter, none where nothing is to be trained."""
    return [] if options.adapter == NO_ADAPTER else parse_adapter(options.adapter)


def build_graphs(options: PackOptions, adapted: Adapted) -> dict[str, Graph]:
    """The graphs "training" and "inference" of the adapted model, "features" if these two need not read the image, and
    "taps"; without an adapter "taps" alone."""
    model, adapter = adapted.model, adapted.adapter
    taps = taps_graph(adapted)
    if not adapter:
        return {TAPS: taps}
    image_shape = adapted.image_shape
    training = capture_training(model, adapter, image_shape, options.class_count, adapted.scheme)
    inference = capture_inference(model, adapter, image_shape)
    names = list(adapter)
    outputs = [LOSS, LOGITS, *(gradient(name) for name in names)]
    graphs = {
        TRAINING: to_graph(TRAINING, training, adapted, [*names, IMAGE, TARGET], outputs),
        INFERENCE: to_graph(INFERENCE, inference, adapted, [*names, IMAGE], [LOGITS]),
    }
    if adapted.first_block > 1:
        return cut_features(graphs, set(names)) | {TAPS: taps}
    return split_features(graphs, set(names), frozen_parameters(adapted)) | {TAPS: taps}


def taps_graph(adapted: Adapted) -> Graph:
    model, adapter = adapted.model, adapted.adapter
    captured = capture_taps(model, adapter, adapted.image_shape, adapted.taps)
    outputs = [*([LOGITS] if adapter else []), *(tap(name) for name in adapted.tap_widths)]
    return to_graph(TAPS, captured, adapted, [*adapter, IMAGE], outputs)


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


def parameter_count(adapted: Adapted) -> int:
    """Of the model, without a head that nothing reads."""
    model = adapted.model
    unread = [] if adapted.adapter else parameters_below(model, *classifier_names(model))
    return sum(value.numel() for name, value in model.named_parameters() if name not in unread)


def weights_read(adapted: Adapted, calls: program.Program) -> dict[str, np.ndarray]:
    """The frozen arrays that a program reads."""
    read = {name for call in calls for name in call.inputs}
    return {name: array for name, array in adapted.frozen.arrays.items() if name in read}


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
    kinds = kinds_of(options)
    pieces, programs, constants = segment(graphs)
    plans = {name: plan_program(pieces, calls) for name, calls in programs.items()}
    initial = {name: value.detach().numpy() for name, value in adapter.items()}
    golden = golden_taps(model, adapter, adapted.preprocessing, adapted.taps, options.seed)
    if adapter:
        golden |= golden_step(model, adapter, adapted.preprocessing, options.class_count, scheme, options.seed)
    onnx_graphs = [to_onnx(graph) for graph in pieces]
    # What an adapter must match, the digest of the weights, depends on no graph: all weights are written.
    weights = adapted.frozen.arrays if adapter else weights_read(adapted, programs[TAPS])
    members = {
        **{archive.graph_member(number): graph for number, graph in enumerate(onnx_graphs)},
        archive.PROGRAM: program.to_json(programs),
        archive.CONSTANTS: tensors.encode(constants),
        archive.WEIGHTS: tensors.encode(weights),
        archive.ADAPTER: tensors.encode(initial),
        archive.GOLDEN: tensors.encode(golden),
        archive.PLAN: to_json(plans),
    }
    starts = starts_of(kinds, model, adapter, options.class_count) if kinds else Starts([], [])
    errors = plan_errors(plans, programs, dict(enumerate(map(read_onnx_graph, onnx_graphs))))
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
        first_block=adapted.first_block,
        adapter_shapes={name: list(array.shape) for name, array in initial.items()},
        head=starts.at_class_means,
        low_rank_maps=starts.at_gradient,
        features=shapes_of_features(graphs),
        taps=adapted.tap_widths,
        total_parameters=parameter_count(adapted),
        weight_format=options.weight_format,
        int8_layers=adapted.int8_layers,
        saved_bits=str(options.saved_bits),
        mean_saved_bits=mean_bits(scheme),
        levels=levels_of(scheme),
        saved_bytes_per_image=saved_bytes_per_image(plans[TRAINING].lifetimes) if adapter else 0,
        golden_optimizer=OPTIMIZER,
        members=archive.digests(members),
    )
    archive.write_archive(output, manifest, members, key)
    return manifest
