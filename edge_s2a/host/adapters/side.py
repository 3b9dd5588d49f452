"""The side module (paper: LSB, figure 2): a lightweight branch beside the backbone, read by the classifier.

For each block: channel average pooling of its input (no parameters, saves nothing), added to the state of the branch,
then a pointwise, a depthwise and a pointwise convolution; only their inputs, of reduced width, are saved. Without other
modules no gradient enters the backbone at all.

Ours, where the paper's text could not be read: the convolutions are a residual of the state, with the last
one zero at the start, so that every block has a gradient from the first step; at a change of stage the state is
averaged over positions and averaged or repeated over channels, which needs no parameters; the state of the last
block is averaged over positions and normalised before the classifier.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_s2a.host.adapters.blocks import Block
from edge_s2a.host.adapters.kind import Backbone, Kind, parameters_below, whole_number
from edge_s2a.host.sources.timm import classifier_names
from edge_s2a.host.trace.operators.average_pool import average_axes, averaging

KERNEL = 3
LEAST_WIDTH = 4


@dataclass(frozen=True)
class Options:
    pooling: int = whole_number(8, 1, 256, "channels of the backbone for each one of the branch")


class SideBlock(nn.Module):
    """One step of the branch, whose state is (batch, width, height of the map, width of the map)."""

    # Constants, which are no part of the model's state dict.
    pooling: Tensor  # (channels of the block, width)
    rows: Tensor  # (height of the map before, height)
    columns: Tensor
    channels: Tensor  # (width before, width)

    def __init__(self, block: Block, pooling: int, before: "SideBlock | None", generator: torch.Generator):
        super().__init__()
        self.layout, self.prefix_tokens, self.grid = block.layout, block.prefix_tokens, block.grid
        self.width = max(LEAST_WIDTH, block.channels // pooling)
        self.register_buffer("pooling", averaging(block.channels, self.width), persistent=False)
        self.changes = False
        if before is not None and (before.width, before.grid) != (self.width, self.grid):
            self.changes = True
            self.register_buffer("rows", averaging(before.grid[0], self.grid[0]), persistent=False)
            self.register_buffer("columns", averaging(before.grid[1], self.grid[1]), persistent=False)
            self.register_buffer("channels", averaging(before.width, self.width), persistent=False)
        self.reduce = nn.Conv2d(self.width, self.width, 1)
        self.mix = nn.Conv2d(self.width, self.width, KERNEL, padding=KERNEL // 2, groups=self.width)
        self.expand = nn.Conv2d(self.width, self.width, 1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            for convolution in (self.reduce, self.mix):
                fan_in = convolution.weight[0].numel()
                convolution.weight.normal_(0, fan_in**-0.5, generator=generator)

    def forward(self, x: Tensor, state: Tensor | None) -> Tensor:
        pooled = self.pooled(x)
        state = pooled if state is None else pooled + self.transition(state)
        return state + self.expand(self.mix(self.reduce(functional.group_norm(state, 1))))

    def pooled(self, x: Tensor) -> Tensor:
        """The block's input at the width of the branch: (batch, width, height, width of the map)."""
        if self.layout == "NCHW":
            return functional.conv2d(x, self.pooling.t()[:, :, None, None])
        if self.layout == "tokens":
            x = x[:, self.prefix_tokens :].reshape(x.shape[0], *self.grid, x.shape[-1])
        return (x @ self.pooling).permute(0, 3, 1, 2)

    def transition(self, state: Tensor) -> Tensor:
        """The state of the block before at this block's width and grid."""
        if not self.changes:
            return state
        state = functional.conv2d(state, self.channels.t()[:, :, None, None])
        return average_axes(state, self.rows, self.columns)


class SideBranch(nn.Module):
    def __init__(self, blocks: list[Block], pooling: int, classes: int, generator: torch.Generator):
        super().__init__()
        steps: list[SideBlock] = []
        for block in blocks:
            steps.append(SideBlock(block, pooling, steps[-1] if steps else None, generator))
        self.steps = nn.ModuleList(steps)
        self.classifier = nn.Linear(steps[-1].width, classes, bias=False)
        nn.init.zeros_(self.classifier.weight)
        self.state: Tensor | None = None

    def step(self, index: int, x: Tensor) -> None:
        self.state = self.steps[index](x, None if index == 0 else self.state)

    def logits(self) -> Tensor:
        """(batch, classes): what the branch adds to the head's output."""
        if self.state is None:
            raise AssertionError("the head ran before the blocks")
        features = self.state.mean((2, 3))
        return self.classifier(functional.layer_norm(features, features.shape[-1:]))


def inject(backbone: Backbone, options: Options) -> list[str]:
    """Adds the branch as `model.side`; returns the names of its parameters. A classifier W of concatenated
    features [f, s] is W_f f + W_s s: its second half is part of the branch and is added to the head's output."""
    branch = SideBranch(backbone.blocks, options.pooling, backbone.classes, backbone.generator)
    backbone.model.side = branch
    for index, block in enumerate(backbone.blocks):
        step_before(block.module, branch, index)
    for name in classifier_names(backbone.model):
        add_logits(backbone.model.get_submodule(name), branch)
    return parameters_below(backbone.model, "side")


def step_before(module: nn.Module, branch: SideBranch, index: int) -> None:
    def step(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        branch.step(index, arguments[0])

    module.register_forward_pre_hook(step)


def add_logits(head: nn.Module, branch: SideBranch) -> None:
    def add(_module: nn.Module, _arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + branch.logits()

    head.register_forward_hook(add)


KIND = Kind(
    name="side",
    help="a lightweight convolutional branch beside the backbone",
    options=Options,
    inject=inject,
)
