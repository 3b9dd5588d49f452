"""The prompt module (paper: LRP, figure 2): a learnable low-rank product added to every block's input.

y = x + A B, with A (positions, rank) and B (rank, channels). The gradients dA = (sum of dy over the batch) BT and
dB = AT (sum of dy over the batch) do not depend on x: nothing is saved, and no token is added, so attention
costs what it did. On feature maps A is the product of a row and a column factor [ours]: with one row of A for
each of 112 x 112 positions the prompts alone would outweigh all other modules.
"""

import torch
from torch import Tensor, nn

from edge_s2a.host.adapters.blocks import Block

RANK = 2


class TokenPrompt(nn.Module):
    """x (batch, tokens, channels) -> x + position channel."""

    def __init__(self, tokens: int, channels: int, generator: torch.Generator):
        super().__init__()
        self.position = nn.Parameter(torch.randn(tokens, RANK, generator=generator))
        self.channel = nn.Parameter(torch.zeros(RANK, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.position @ self.channel


class MapPrompt(nn.Module):
    """x (batch, channels, height, width), or channels last: x + sum over r of row_r column_r channel_r."""

    def __init__(self, block: Block, generator: torch.Generator):
        super().__init__()
        height, width = block.grid
        self.row = nn.Parameter(torch.randn(height, 1, RANK, generator=generator))
        self.column = nn.Parameter(torch.randn(1, width, RANK, generator=generator))
        self.channel = nn.Parameter(torch.zeros(RANK, block.channels))
        self.layout = block.layout

    def forward(self, x: Tensor) -> Tensor:
        product = (self.row * self.column) @ self.channel  # (height, width, channels)
        return x + (product if self.layout == "NHWC" else product.permute(2, 0, 1))


def inject(model: nn.Module, blocks: list[Block], generator: torch.Generator) -> list[str]:
    """Adds a prompt before each block, as `model.prompt.<n>`; returns the names of its parameters."""
    model.prompt = nn.ModuleList(
        TokenPrompt(*block.input_shape, generator) if block.layout == "tokens" else MapPrompt(block, generator)
        for block in blocks
    )
    for block, prompt in zip(blocks, model.prompt, strict=True):

        def add(_module, arguments, prompt=prompt):
            return prompt(arguments[0]), *arguments[1:]

        block.module.register_forward_pre_hook(add)
    return [f"prompt.{name}" for name, _ in model.prompt.named_parameters()]
