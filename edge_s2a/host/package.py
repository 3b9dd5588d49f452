"""Packs a timm model into a training artifact."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edge_s2a import __version__
from edge_s2a.artifact import archive, tensors
from edge_s2a.artifact.files import make_folder
from edge_s2a.artifact.manifest import FORMAT_VERSION, Manifest
from edge_s2a.artifact.names import IMAGE, LOGITS, LOSS, TARGET, gradient
from edge_s2a.host.adapters import bias
from edge_s2a.host.capture import Captured, capture_inference, capture_training
from edge_s2a.host.emit import to_onnx
from edge_s2a.host.golden import OPTIMIZER, golden_step
from edge_s2a.host.ir import Graph
from edge_s2a.host.liveness import plan_graph, saved_bytes_per_image
from edge_s2a.host.lower import lower
from edge_s2a.host.model import classifier_names, create_model, preprocessing_of
from edge_s2a.host.passes.dead_code import remove_dead_code
from edge_s2a.host.weights import FrozenWeights, freeze, named_constants
from edge_s2a.plan.lifetimes import to_json


def package(
    model_name: str,
    output: Path,
    num_classes: int,
    labels: list[str] | None = None,
    weights: Path | None = None,
    pretrained: bool = False,
    model_kwargs: dict[str, Any] | None = None,
    image_size: int | None = None,
    saved_bits: int = 4,
    weight_format: str = "int8",
    seed: int = 0,
) -> Manifest:
    """Writes the artifact `output`: training and inference graph, frozen weights, initial adapter, golden
    step, memory plan and manifest (docs/FORMAT.md). Raises UserError for anything the user can mend.
    """
    make_folder(output.parent)
    kwargs = model_kwargs or {}
    model = create_model(model_name, kwargs, num_classes, image_size, weights, pretrained, seed)
    preprocessing = preprocessing_of(model, image_size)
    image_shape = (3, *preprocessing.image_size)

    adapter = select_adapter(model)
    # From here on the model computes with the rounded weights, as the device will.
    frozen = freeze(named_constants(model, set(adapter)), weight_format)

    training = capture_training(model, adapter, image_shape, num_classes, saved_bits)
    inference = capture_inference(model, adapter, image_shape)
    names = list(adapter)
    gradients = [gradient(name) for name in names]
    graphs = {
        "training": to_graph("training", training, model, frozen, [*names, IMAGE, TARGET], [LOSS, LOGITS, *gradients]),
        "inference": to_graph("inference", inference, model, frozen, [*names, IMAGE], [LOGITS]),
    }
    plans = {name: plan_graph(graph) for name, graph in graphs.items()}
    initial = {name: value.detach().numpy() for name, value in adapter.items()}
    golden = golden_step(model, adapter, preprocessing, num_classes, saved_bits, seed)

    members = {
        archive.TRAINING_GRAPH: to_onnx(graphs["training"]),
        archive.INFERENCE_GRAPH: to_onnx(graphs["inference"]),
        archive.WEIGHTS: tensors.encode(frozen.arrays),
        archive.ADAPTER: tensors.encode(initial),
        archive.GOLDEN: tensors.encode(golden),
        archive.PLAN: to_json(plans),
    }
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        producer=f"edge-s2a {__version__}",
        model=model_name,
        model_kwargs=kwargs,
        num_classes=num_classes,
        labels=labels,
        preprocessing=preprocessing,
        adapter=["bias"],
        adapter_shapes={name: list(array.shape) for name, array in initial.items()},
        total_parameters=sum(parameter.numel() for parameter in model.parameters()),
        weight_format=weight_format,
        saved_bits=saved_bits,
        saved_bytes_per_image=saved_bytes_per_image(plans["training"].lifetimes),
        golden_optimizer=OPTIMIZER,
        members=archive.digests(members),
    )
    archive.write_archive(output, manifest, members)
    return manifest


def select_adapter(model: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters by name: biases and the whole head; everything else is frozen."""
    heads = tuple(f"{name}." for name in classifier_names(model))
    trainable = set(bias.trainable_names(model))
    trainable |= {name for name, _ in model.named_parameters() if name.startswith(heads)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
    return {name: parameter for name, parameter in model.named_parameters() if name in trainable}


def to_graph(
    name: str,
    captured: Captured,
    model: nn.Module,
    frozen: FrozenWeights,
    inputs: list[str],
    outputs: list[str],
) -> Graph:
    """Lowers a captured computation and runs the passes over it."""
    tensors_of_model = [*model.named_parameters(), *model.named_buffers()]
    names = {id(tensor): tensor_name for tensor_name, tensor in tensors_of_model}
    return remove_dead_code(lower(captured, name, inputs, outputs, frozen, names))
