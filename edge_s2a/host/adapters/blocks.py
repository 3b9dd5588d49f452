"""Finds the repeated blocks of a timm model, and the shapes of their inputs."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edge_s2a.errors import UserError

CONTAINERS = (nn.Sequential, nn.ModuleList)
STAGE = "Stage"  # ends the class names of timm's modules that are sequences, though not by type
# Parts of a model that hold sequences, but no blocks.
OUTSIDE = ("stem", "patch_embed", "head", "norm", "pool", "fc", "classifier", "rope", "pos_embed", "downsample")


class NoBlocksError(UserError):
    """The model has no blocks that an adapter could act on. Whoever catches it says what to do."""


class Block(NamedTuple):
    """One block and the shape of its input without the batch axis."""

    name: str
    module: nn.Module
    layout: str  # "tokens" (tokens, channels), "NHWC" (height, width, channels), "NCHW" (channels, height, width)
    input_shape: tuple[int, ...]
    prefix_tokens: int  # class, distillation and register tokens before those of the image
    grid: tuple[int, int]  # height and width of the feature map

    @property
    def channels(self) -> int:
        return self.input_shape[0 if self.layout == "NCHW" else -1]


def blocks_of(model: nn.Module, image_shape: tuple[int, ...]) -> list[Block]:
    """The blocks of `model` in the order in which they run on an image. Raises NoBlocksError if there are none, or
    if the input of one is neither a grid of tokens nor a feature map."""
    named = {module: name for name, module in candidates(model)}
    ran: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, arguments: tuple[object, ...]) -> None:
        if arguments and isinstance(arguments[0], Tensor):
            ran.setdefault(module, tuple(arguments[0].shape[1:]))

    handles = [module.register_forward_pre_hook(note) for module in named]
    with torch.no_grad():
        model(torch.zeros(1, *image_shape))
    for handle in handles:
        handle.remove()
    blocks = [describe(model, named[module], module, shape, image_shape) for module, shape in ran.items()]
    if not blocks:
        raise NoBlocksError(f"{type(model).__name__} has no sequence of blocks")
    return blocks


def candidates(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of the items of all sequences, except items that are sequences themselves; a stage, which holds
    its own sequence under one of the usual names, is taken apart."""
    for name, child in module.named_children():
        if name.startswith(OUTSIDE):
            continue
        is_stage = type(child).__name__.endswith(STAGE) and not any(is_sequence(child, k) for k in ("blocks", "layers"))
        inner = [child] if isinstance(child, CONTAINERS) or is_stage else []
        inner += [getattr(child, key) for key in ("blocks", "layers", "stages") if is_sequence(child, key)]
        for sequence in inner:
            path = prefix + name + ("" if sequence is child else f".{name_of(child, sequence)}")
            for key, item in sequence.named_children():
                if isinstance(item, CONTAINERS) or any(is_sequence(item, key) for key in ("blocks", "layers")):
                    yield from candidates(wrapper(key, item), f"{path}.")
                elif any(True for _ in item.children()) and any(True for _ in item.parameters()):
                    yield f"{path}.{key}", item


def is_sequence(module: nn.Module, key: str) -> bool:
    return isinstance(getattr(module, key, None), CONTAINERS)


def name_of(parent: nn.Module, child: nn.Module) -> str:
    return next(name for name, module in parent.named_children() if module is child)


def wrapper(name: str, module: nn.Module) -> nn.Module:
    """A module with `module` as its only child, without changing the tree that it is part of."""
    outer = nn.Module()
    outer.add_module(name, module)
    return outer


def describe(
    model: nn.Module, name: str, module: nn.Module, shape: tuple[int, ...], image_shape: tuple[int, ...]
) -> Block:
    if len(shape) == 3:
        layout = layout_of_map(model, shape, image_shape)
        return Block(name, module, layout, shape, 0, shape[:2] if layout == "NHWC" else shape[1:])
    if len(shape) != 2:
        raise NoBlocksError(f"the input of block {name} has shape {shape}, neither tokens nor a feature map")
    for prefix in (getattr(model, "num_prefix_tokens", 0), 0):  # some models add their class token late
        tokens = shape[0] - prefix
        height = round((tokens * image_shape[1] / image_shape[2]) ** 0.5)
        if (
            height > 0
            and tokens % height == 0
            and abs(tokens / height / height - image_shape[2] / image_shape[1]) < 0.1
        ):
            return Block(name, module, "tokens", shape, prefix, (height, tokens // height))
    raise NoBlocksError(f"the {shape[0]} tokens of block {name} form no grid")


def layout_of_map(model: nn.Module, shape: tuple[int, ...], image_shape: tuple[int, ...]) -> str:
    """ "NHWC" or "NCHW": the two sizes with the image's aspect ratio are height and width; where that leaves both, or
    none, what the model says of its output, which need not hold within it."""

    def is_grid(height: int, width: int) -> bool:
        return abs(height / width - image_shape[1] / image_shape[2]) < 0.1

    may_be_last, may_be_first = is_grid(*shape[:2]), is_grid(*shape[1:])
    if may_be_last == may_be_first:
        return "NHWC" if getattr(model, "output_fmt", "NCHW") == "NHWC" else "NCHW"
    return "NHWC" if may_be_last else "NCHW"
