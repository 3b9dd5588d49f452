"""BatchNorm with frozen statistics: a product and a sum per channel, which save nothing."""

import torch
from torch import Tensor
from torch.nn import functional

from edge_s2a.errors import UserError


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """x (batch, channels, ...). Constants are folded when the graph is lowered."""
    if running_mean is None and x.ndim == 3:  # timm standardises convolution weights so: (1, outputs, inputs)
        return functional.layer_norm(x, x.shape[-1:], None, None, eps)
    if training or running_mean is None or running_var is None:
        raise UserError("a BatchNorm without running statistics cannot be frozen; choose another model")
    per_channel = (-1, *[1] * (x.ndim - 2))
    scale = torch.rsqrt(running_var + eps)
    scale = scale if weight is None else scale * weight
    y = x * scale.view(per_channel) - (running_mean * scale).view(per_channel)
    return y if bias is None else y + bias.view(per_channel)
