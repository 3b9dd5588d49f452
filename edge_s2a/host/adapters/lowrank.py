"""The lowrank module [ours]: a low-rank map of each norm's output, beside the layers that follow it.

y = x + f(n) + B A n with n = norm(x), A (rank, channels) and B (channels, rank) zero at the start. The gradient of A
needs n alone, whose normalised half the norm's own backward pass already saves in few bits: it reads that
code, and the module adds only A n, of `rank` channels, to memory.

A network without such norms (its BatchNorm, frozen, saves nothing) has no code to share: there each block's
input feeds a map beside the whole block, averaged over positions where the block reduces them, and is saved in
few bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from timm.layers import LayerNorm2d, RmsNorm
from torch import Tensor, nn
from torch.nn import functional

from edge_s2a.host.adapters.blocks import Block
from edge_s2a.host.adapters.kind import Backbone, Kind, Starts, parameters_below, whole_number

NORM_RANK = 2
BLOCK_RANK = 4  # the input of a block is richer than that of a branch, and there are fewer of them
Norm: TypeAlias = nn.LayerNorm | RmsNorm
# Where blocks of timm add a branch to their residual: (norm that feeds the branch, module at its end).
BRANCHES = (("norm1", "drop_path1"), ("norm2", "drop_path2"), ("norm", "drop_path"))


@dataclass(frozen=True)
class Options:
    rank: int | None = whole_number(
        None, 1, 256, f"rows of A; by default {NORM_RANK} beside branches that a norm feeds, {BLOCK_RANK} beside blocks"
    )


class LowRank(nn.Module):
    """x (..., inputs), or (batch, inputs, height, width) if channels_first -> B A x with `outputs` channels."""

    def __init__(self, inputs: int, outputs: int, rank: int, channels_first: bool, generator: torch.Generator):
        super().__init__()
        self.channels_first = channels_first
        self.down = nn.Parameter(torch.randn(rank, inputs, generator=generator) * inputs**-0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        if not self.channels_first:
            return x @ self.down.t() @ self.up.t()
        return functional.conv2d(functional.conv2d(x, self.down[:, :, None, None]), self.up[:, :, None, None])


def inject(backbone: Backbone, options: Options) -> list[str]:
    """Adds a map for each branch that a norm feeds, or else for each block, as `model.lowrank.<n>`; returns the
    names of its parameters."""
    model, blocks, generator = backbone.model, backbone.blocks, backbone.generator
    of_branches = branches(model, blocks, backbone.image_shape)
    if of_branches:
        maps = [beside_branch(norm, end, options.rank or NORM_RANK, generator) for norm, end in of_branches]
    else:
        channels = output_channels(model, blocks, backbone.image_shape)
        maps = [
            beside_block(block, outputs, options.rank or BLOCK_RANK, generator)
            for block, outputs in zip(blocks, channels, strict=True)
        ]
    model.lowrank = nn.ModuleList(maps)
    return parameters_below(model, "lowrank")


def starts(_model: nn.Module, adapter: Mapping[str, Tensor], _classes: int) -> Starts:
    """The maps of which both factors are trained."""
    downs = [name for name in adapter if name.startswith("lowrank.") and name.endswith(".down")]
    maps = [name.removesuffix(".down") for name in downs]
    return Starts(at_class_means=[], at_gradient=[name for name in maps if f"{name}.up" in adapter])


def branches(model: nn.Module, blocks: list[Block], image_shape: tuple[int, ...]) -> list[tuple[Norm, nn.Module]]:
    """(norm, end) of every branch in which both run once, the norm first, on as many positions and channels."""
    pairs: list[tuple[Norm, nn.Module]] = []
    for block in blocks:
        for names in BRANCHES:
            norm, end = (getattr(block.module, name, None) for name in names)
            if isinstance(norm, Norm) and end is not None:
                pairs.append((norm, end))
    ran: list[tuple[nn.Module, torch.Size]] = []
    hooks = [
        module.register_forward_hook(lambda module, _, output: ran.append((module, output.shape)))
        for module in {module for pair in pairs for module in pair}
    ]
    with torch.no_grad():
        model(torch.zeros(1, *image_shape))
    for hook in hooks:
        hook.remove()

    def fits(norm: Norm, end: nn.Module) -> bool:
        calls = [(module, shape) for module, shape in ran if module is norm or module is end]
        in_order = [module for module, _ in calls] == [norm, end]
        return in_order and sorted(calls[0][1]) == sorted(calls[1][1]) and norm.normalized_shape[0] in calls[1][1]

    return [pair for pair in pairs if fits(*pair)]


def beside_branch(norm: Norm, end: nn.Module, rank: int, generator: torch.Generator) -> LowRank:
    """From the output of `norm` to that of `end`."""
    channels = norm.normalized_shape[0]
    lowrank = LowRank(channels, channels, rank, isinstance(norm, LayerNorm2d), generator)
    normalized: list[Tensor] = []

    def remember(_module: nn.Module, _arguments: tuple[Any, ...], output: Tensor) -> None:
        normalized[:] = [output]

    def add(_module: nn.Module, _arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        update = lowrank(normalized.pop())
        return output + (update if update.shape == output.shape else update.permute(0, 3, 1, 2))

    norm.register_forward_hook(remember)
    end.register_forward_hook(add)
    return lowrank


def beside_block(block: Block, outputs: int, rank: int, generator: torch.Generator) -> LowRank:
    """From the input of the block to its output."""
    lowrank = LowRank(block.channels, outputs, rank, block.layout == "NCHW", generator)

    def add(_module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        x = arguments[0]
        if x.ndim == 4 and x.shape[2:] != output.shape[2:]:
            x = functional.adaptive_avg_pool2d(x, (output.shape[2], output.shape[3]))
        return output + lowrank(x)

    block.module.register_forward_hook(add)
    return lowrank


def output_channels(model: nn.Module, blocks: list[Block], image_shape: tuple[int, ...]) -> list[int]:
    """Channels of what each block returns."""
    channels: dict[nn.Module, int] = {}

    def note(module: nn.Module, _arguments: tuple[Any, ...], output: Tensor) -> None:
        layout = next(block.layout for block in blocks if block.module is module)
        channels[module] = output.shape[1 if layout == "NCHW" else -1]

    handles = [block.module.register_forward_hook(note) for block in blocks]
    with torch.no_grad():
        model(torch.zeros(1, *image_shape))
    for handle in handles:
        handle.remove()
    return [channels[block.module] for block in blocks]


KIND = Kind(
    name="lowrank",
    help="a low-rank map of each norm's output beside the layers it feeds, or of each block's input",
    options=Options,
    inject=inject,
    starts=starts,
)
