"""Chooses the layers that compute in int8."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_s2a.errors import UserError
from edge_s2a.host.trace.operators.linear import compute_in_int8, int8_product
from edge_s2a.host.weights import FrozenWeights

# Error of a layer's output, relative to its deviation, on the calibration images. Rounding a row of normally
# distributed values to int8 errs by 0.01; where a few channels are far larger than the others, the others are lost.
LARGEST_ERROR = 0.05
# Inputs times outputs over their sum: the time of a product grows with the former, that of rounding its rows with the
# latter. DeiT-Tiny, whose layers are all below, is as fast in float; ViT-B/16, above, takes half the time in int8.
LEAST_SIZE = 256
IMAGES = 4


def choose_int8_layers(model: nn.Module, frozen: FrozenWeights, compute: str, image: Tensor) -> list[str]:
    """The linear layers that compute in int8 from now on, by name: with "int8" all whose frozen weight is held in int8,
    with "auto" those of them that are large and err little on `image` (batch, 3, height, width). Raises UserError where
    "int8" finds none."""
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and frozen.formats.get(f"{name}.weight") == "int8"
    }
    if compute == "fp32":
        return []
    if compute == "int8" and not layers:
        raise UserError(
            "--compute int8 is for linear layers whose frozen weight is held in int8, and there are none; "
            "omit --compute"
        )
    errors = rounding_errors(model, layers, image[:IMAGES]) if compute == "auto" else dict.fromkeys(layers, 0.0)
    chosen = [name for name, layer in layers.items() if errors[name] <= LARGEST_ERROR and is_worth_it(layer, compute)]
    for name in chosen:
        compute_in_int8(layers[name].weight)
    return chosen


def is_worth_it(layer: nn.Linear, compute: str) -> bool:
    size = layer.in_features * layer.out_features / (layer.in_features + layer.out_features)
    return compute == "int8" or size >= LEAST_SIZE


def rounding_errors(model: nn.Module, layers: dict[str, nn.Linear], image: Tensor) -> dict[str, float]:
    """|y - y'| / |y - mean over rows of y| for each layer, y' being its output computed in int8: what is alike in all
    rows, such as a channel that is large everywhere, does not count. Infinite where a layer is never run."""
    errors = dict.fromkeys(layers, float("inf"))

    def hook(name: str) -> Callable[[nn.Linear, tuple[Tensor], Tensor], None]:
        def measure(module: nn.Linear, inputs: tuple[Tensor], _output: Tensor) -> None:
            rows = inputs[0].reshape(-1, inputs[0].shape[-1])
            exact = functional.linear(rows, module.weight)
            deviation = (exact - exact.mean(0)).norm().clamp(min=1e-30)
            errors[name] = float((int8_product(rows, module.weight) - exact).norm() / deviation)

        return measure

    handles = [module.register_forward_hook(hook(name)) for name, module in layers.items()]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return errors
