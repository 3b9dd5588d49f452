"""The bias module: every additive bias of the backbone is trainable.

A parametric layer is then frozen weight plus trainable bias: the bias gradient is a sum over the arriving
gradient, so the layer's input is not saved for the backward pass (paper: figure 2).
"""

from torch import nn


def trainable_names(model: nn.Module) -> list[str]:
    """Names of all biases of `model`, in the order of its parameters."""
    return [name for name, _ in model.named_parameters() if name.split(".")[-1] == "bias"]
