"""Rounds the frozen weights of a model to the format in which they are stored, and restores them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from edge_s2a.host.int4 import block_size, dequantize_blocks, quantize_blocks

WEIGHT_FORMATS = ("fp32", "fp16", "int8", "int4")

MEMBERS: dict[str, Callable[[str], list[str]]] = {  # the arrays that hold a weight, by format
    "fp32": lambda name: [name],
    "fp16": lambda name: [f"{name}.half"],
    "int8": lambda name: [f"{name}.codes", f"{name}.scale"],
    "int4": lambda name: [f"{name}.packed", f"{name}.block_scale"],
}


@dataclass
class FrozenWeights:
    """The frozen weights as the artifact stores them: `formats` says how each is held, `members` in which arrays."""

    arrays: dict[str, np.ndarray]
    formats: dict[str, str]

    def members(self, name: str) -> list[str]:
        """fp32: the parameter. fp16: its halves. int8: its codes, and its scales (output channels,).
        int4: its codes, two per byte (values / 2,), and its scales (blocks,)."""
        return MEMBERS[self.formats[name]](name)


def freeze(tensors: dict[str, torch.Tensor], weight_format: str) -> FrozenWeights:
    """Rounds `tensors` to `weight_format` **in place** and returns what to store, so that what the host
    computes afterwards is what the device will compute.

    int8 applies to matrices and convolution kernels, per output channel (axis 0); vectors and position
    embeddings stay float32: they are a small part of the bytes and a large part of the error. int4 applies to the same
    in blocks along the input axes, but for kernels too small for it, which are held as int8.
    """
    weights = FrozenWeights({}, {})
    for name, tensor in tensors.items():
        values = tensor.detach().numpy()
        weights.formats[name] = format_of(name, tensor, weight_format)
        stored = encode(values, weights.formats[name])
        rounded = decode(stored, weights.formats[name], values.shape)
        weights.arrays.update(zip(weights.members(name), stored, strict=True))
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(rounded))
    return weights


def restore(tensors: dict[str, torch.Tensor], arrays: dict[str, np.ndarray]) -> None:
    """Sets `tensors` to what `freeze` made of them and stored in `arrays`. Raises KeyError for a missing tensor,
    ValueError for one of another shape."""
    for name, tensor in tensors.items():
        held_as = next((kind for kind in WEIGHT_FORMATS if all(part in arrays for part in MEMBERS[kind](name))), None)
        if held_as is None:
            raise KeyError(f"{name} is missing")
        values = decode([arrays[part] for part in MEMBERS[held_as](name)], held_as, tuple(tensor.shape))
        if values.shape != tuple(tensor.shape):
            raise ValueError(f"{name} is {values.shape} instead of {tuple(tensor.shape)}")
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(np.array(values)))


def encode(values: np.ndarray, held_as: str) -> list[np.ndarray]:
    """float32 -> the arrays of FrozenWeights.members."""
    if held_as == "int4":
        return [*quantize_blocks(values)]
    if held_as == "int8":
        return [*quantize_rows(values)]
    return [values.astype(np.float16)] if held_as == "fp16" else [values]


def decode(stored: list[np.ndarray], held_as: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 that the device computes with, from what `encode` made of a weight of `shape`."""
    if held_as == "int4":
        packed, scale = stored
        return dequantize_blocks(packed, scale, shape)
    if held_as == "int8":
        codes, scale = stored
        return dequantize_rows(codes, scale)
    return stored[0].astype(np.float32) if held_as == "fp16" else stored[0]


def format_of(name: str, tensor: torch.Tensor, weight_format: str) -> str:
    if not is_product_weight(name, tensor):
        return "fp32"
    return "int8" if weight_format == "int4" and block_size(tensor.shape) is None else weight_format


def is_product_weight(name: str, tensor: torch.Tensor) -> bool:
    return tensor.ndim >= 2 and name.split(".")[-1] == "weight"


def quantize_rows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (rows, ...) -> int8 (rows, ...) in [-127, 127] and float32 scale (rows,); a row is
    `codes * scale` with scale = max|row| / 127."""
    largest = np.abs(values.reshape(len(values), -1)).max(1)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    codes = np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
    return codes, scale


def dequantize_rows(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return codes * scale.reshape(-1, *[1] * (codes.ndim - 1))


def named_constants(model: nn.Module, trainable: set[str]) -> dict[str, torch.Tensor]:
    """Parameters and buffers of `model` that are not trained, by name."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: tensor for name, tensor in tensors.items() if name not in trainable}
