"""The bias module: every layer's additive bias is trainable.

A parametric layer is then frozen weight plus trainable bias: the bias gradient is a sum over the arriving
gradient, so the layer's input is not saved for the backward pass (paper: figure 2).
"""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def inject(model: nn.Module) -> list[str]:
    """Gives layers without a bias one of zeros, unless a norm with a bias follows; returns the names of all
    biases of `model`, in the order of its parameters."""
    normalised = any(isinstance(module, _BatchNorm) for module in model.modules())
    for module in model.modules():
        kinds = nn.Linear if normalised else (nn.Linear, nn.Conv2d)
        if isinstance(module, kinds) and module.bias is None:
            outputs = module.out_features if isinstance(module, nn.Linear) else module.out_channels
            module.bias = nn.Parameter(torch.zeros(outputs))
    return [
        name
        for name, parameter in model.named_parameters()
        if name.split(".")[-1].endswith("bias") and parameter.ndim == 1
    ]
