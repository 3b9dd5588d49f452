"""The prompt module (paper: LRP, figure 2): a learnable low-rank product added to every block's input.

y = x + A B, with A (positions, rank) and B (rank, channels). The gradients dA = (sum of dy over the batch) BT and
dB = AT (sum of dy over the batch) do not depend on x: nothing is saved. No token is added, so attention costs the same
as before. On feature maps A is the product of a row factor and a column factor [ours]: with one row of A for each of
112 x 112 positions the prompts alone would outweigh all other modules.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edge_s2a.host.adapters.blocks import Block
from edge_s2a.host.adapters.kind import Backbone, Kind, parameters_below, whole_number


@dataclass(frozen=True)
class Options:
    rank: int = whole_number(2, 1, 256, "columns of A and rows of B")


class TokenPrompt(nn.Module):
    """x (batch, tokens, channels) -> x + position channel."""

    def __init__(self, block: Block, rank: int, generator: torch.Generator):
        super().__init__()
        tokens, channels = block.input_shape
        self.position = nn.Parameter(torch.randn(tokens, rank, generator=generator))
        self.channel = nn.Parameter(torch.zeros(rank, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.position @ self.channel


class MapPrompt(nn.Module):
    """x (batch, channels, height, width), or channels last -> x + sum over r of row_r column_r channel_r."""

    def __init__(self, block: Block, rank: int, generator: torch.Generator):
        super().__init__()
        height, width = block.grid
        self.row = nn.Parameter(torch.randn(height, 1, rank, generator=generator))
        self.column = nn.Parameter(torch.randn(1, width, rank, generator=generator))
        self.channel = nn.Parameter(torch.zeros(rank, block.channels))
        self.layout = block.layout

    def forward(self, x: Tensor) -> Tensor:
        product = (self.row * self.column) @ self.channel  # (height, width, channels)
        return x + (product if self.layout == "NHWC" else product.permute(2, 0, 1))


def inject(backbone: Backbone, options: Options) -> list[str]:
    """Adds a prompt before each block, as `model.prompt.<n>`; returns the names of its parameters."""
    prompts = [
        (TokenPrompt if block.layout == "tokens" else MapPrompt)(block, options.rank, backbone.generator)
        for block in backbone.blocks
    ]
    backbone.model.prompt = nn.ModuleList(prompts)
    for block, prompt in zip(backbone.blocks, prompts, strict=True):
        add_before(block.module, prompt)
    return parameters_below(backbone.model, "prompt")


def add_before(module: nn.Module, prompt: nn.Module) -> None:
    def add(_module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return prompt(arguments[0]), *arguments[1:]

    module.register_forward_pre_hook(add)


KIND = Kind(
    name="prompt",
    help="a low-rank product added to every block's input",
    options=Options,
    inject=inject,
)
