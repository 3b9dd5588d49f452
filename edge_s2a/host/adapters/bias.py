"""The bias module: the additive bias of every layer is trainable.

A parametric layer is then a frozen weight plus a trainable bias. The gradient of the bias is a sum over the arriving
gradient, so the layer's input is not saved for the backward pass (paper: figure 2).
"""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edge_s2a.errors import UserError
from edge_s2a.host.adapters.kind import Backbone, Kind, NoOptions


def inject(backbone: Backbone, _options: NoOptions) -> list[str]:
    return trainable_biases(backbone.model, backbone.early)


def trainable_biases(model: nn.Module, early: frozenset[nn.Module] = frozenset()) -> list[str]:
    """Gives layers without a bias one of zeros, unless a norm with a bias follows; returns the names of all
    biases of `model`, in the order of its parameters, but for those of the modules `early`."""
    normalised = any(isinstance(module, _BatchNorm) for module in model.modules())
    for module in model.modules():
        if module in early:
            continue
        if isinstance(module, nn.Linear) and module.bias is None:
            module.bias = nn.Parameter(torch.zeros(module.out_features))
        elif isinstance(module, nn.Conv2d) and module.bias is None and not normalised:
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
    return [
        name
        for name, parameter in model.named_parameters()
        if name.split(".")[-1].endswith("bias")
        and parameter.ndim == 1
        and model.get_submodule(name.rpartition(".")[0]) not in early
    ]


def peft(model: nn.Module) -> dict[str, Any]:
    """PEFT has no method for biases alone, but LoRA may carry all biases. Raises UserError for a model with BatchNorm,
    whose biases are folded together with the norm's statistics."""
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise UserError(
            f"{type(model).__name__} has BatchNorm, which is folded into the biases; export as timm, onnx or torch"
        )
    return {"bias": "all"}


KIND = Kind(
    name="bias",
    help="the additive bias of every layer",
    options=NoOptions,
    inject=inject,
    reads_blocks=False,
    peft=peft,
)
