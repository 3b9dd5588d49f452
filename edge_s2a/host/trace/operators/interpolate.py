"""Resampling of feature maps, which is linear and saves nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from edge_s2a.errors import UserError
from edge_s2a.host.trace.operators.average_pool import average_axes

ALONG_ONE_AXIS = {"nearest": "nearest", "bilinear": "linear"}


def interpolate(
    x: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """x (batch, channels, height, width), by a product with a constant matrix along either axis."""
    if mode not in ALONG_ONE_AXIS or antialias or x.ndim != 4:
        raise UserError(f"interpolation by {mode} inside a model cannot be packed; choose another model")
    sizes = tuple(size) if isinstance(size, Sequence) else (size, size)
    scales = tuple(scale_factor) if isinstance(scale_factor, Sequence) else (scale_factor, scale_factor)
    rows, columns = (
        matrix(x.shape[axis], length, scale, mode, align_corners)
        for axis, length, scale in zip((-2, -1), sizes, scales, strict=True)
    )
    return average_axes(x, rows, columns)


def matrix(inputs: int, outputs: int | None, scale: float | None, mode: str, align_corners: bool | None) -> Tensor:
    """(inputs, outputs): torch's resampling along one axis, applied to the identity."""
    identity = torch.eye(inputs)[None]
    along = ALONG_ONE_AXIS[mode]
    return functional.interpolate(identity, outputs, scale, along, align_corners)[0].contiguous()
