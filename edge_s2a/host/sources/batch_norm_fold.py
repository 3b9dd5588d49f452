"""Folds frozen BatchNorm into the layer before it.

With frozen statistics BatchNorm is x scale + shift per channel. The scale goes into the weight of the
convolution whose output it reads, the shift into its own bias, which stays trainable under its name: afterwards the
norm only adds a bias, and costs neither time nor memory.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode


def fold_batch_norms(model: nn.Module, image_shape: tuple[int, ...]) -> None:
    """Rewrites every BatchNorm of `model` in place to mean 0 and variance 1, with the scale in the layer before it
    where nothing else reads that layer's output, and otherwise in its weight."""
    calls = Calls()
    with torch.no_grad(), calls:
        model(torch.zeros(1, *image_shape))
    layers = {id(module.weight): module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    for norm in model.modules():
        if isinstance(norm, _BatchNorm):
            producer, layer = calls.producer_of_norm.get(id(norm.running_var)), None
            if producer is not None and calls.readers[producer.output] == 1 and calls.runs[producer.weight] == 1:
                layer = layers.get(producer.weight)
            fold(norm, layer)


def fold(norm: _BatchNorm, layer: nn.Conv2d | nn.Linear | None) -> None:
    """Moves the scale of `norm` into `layer`, or into its own weight, and its shift into its own bias."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return  # it keeps no statistics
    with torch.no_grad():
        scale = torch.rsqrt(variance + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight
        shift = -mean * scale
        if layer is not None:
            layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
            if layer.bias is not None:
                layer.bias.mul_(scale)
            scale = torch.ones_like(scale)
        norm.weight = nn.Parameter(scale, requires_grad=False)
        norm.bias = nn.Parameter(shift if norm.bias is None else norm.bias + shift)
        mean.zero_()
        variance.fill_(1 - norm.eps)


@dataclass(frozen=True)
class Producer:
    """A call of a layer: the identities of its weight and of its output."""

    weight: int
    output: int


@dataclass
class Calls(TorchFunctionMode):
    """Records which layer's output each BatchNorm reads, and how often each output is read."""

    producers: dict[int, Producer] = field(default_factory=dict)  # by the identity of the output
    producer_of_norm: dict[int, Producer] = field(default_factory=dict)  # by the identity of the running variance
    readers: dict[int, int] = field(default_factory=dict)
    runs: dict[int, int] = field(default_factory=dict)  # of each layer's weight
    alive: list[Tensor] = field(default_factory=list)  # so that identities are not reused

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        arguments: tuple[Any, ...] = (),
        keywords: dict[str, Any] | None = None,
    ) -> Any:
        keywords = keywords or {}
        result = function(*arguments, **keywords)
        if isinstance(result, torch.Size) or not isinstance(result, (Tensor, tuple, list)):
            return result  # a property, which reads no values
        for tensor in [*arguments, *keywords.values()]:
            if isinstance(tensor, Tensor):
                self.readers[id(tensor)] = self.readers.get(id(tensor), 0) + 1
        if isinstance(result, Tensor) and function in (functional.conv2d, torch.conv2d, functional.linear):
            weight = id(arguments[1] if len(arguments) > 1 else keywords["weight"])
            self.alive.append(result)
            self.readers[id(result)] = 0
            self.runs[weight] = self.runs.get(weight, 0) + 1
            self.producers[id(result)] = Producer(weight, id(result))
        elif function is functional.batch_norm and id(arguments[0]) in self.producers:
            self.producer_of_norm[id(arguments[2])] = self.producers[id(arguments[0])]
        return result
