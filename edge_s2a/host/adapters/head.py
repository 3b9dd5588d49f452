"""The head: the model's classifier, all of whose parameters are trained.

It is trained with every other kind too. Alone it is a linear probe that starts at class means: nothing that is trained
acts in the backbone, whose features the device then computes once per image.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from edge_s2a.host.adapters.kind import Backbone, Kind, NoOptions, Starts, parameters_below
from edge_s2a.host.sources.timm import classifier_names


def inject(backbone: Backbone, _options: NoOptions) -> list[str]:
    return parameters_below(backbone.model, *classifier_names(backbone.model))


def starts(model: nn.Module, adapter: Mapping[str, Tensor], classes: int) -> Starts:
    """The classifiers, if each of them has a trained weight and bias with one row per class; otherwise none."""
    names = classifier_names(model)
    tensors = [adapter.get(f"{name}.{part}") for name in names for part in ("weight", "bias")]
    complete = all(tensor is not None and len(tensor) == classes for tensor in tensors)
    return Starts(at_class_means=names if complete else [], at_gradient=[])


def peft(model: nn.Module) -> dict[str, Any]:
    return {"modules_to_save": sorted(classifier_names(model))}


KIND = Kind(
    name="head",
    help="the classifier alone",
    options=NoOptions,
    inject=inject,
    reads_blocks=False,
    starts=starts,
    peft=peft,
)
