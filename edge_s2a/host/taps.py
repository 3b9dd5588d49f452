"""Taps: statistics of chosen blocks' outputs, from which a device learns in one pass, without a backward pass.

A block's output is one vector for each position of the image. Of a transformer's, whose channels differ in scale, each
vector is normalised first (LayerNorm without its affine half). The statistics of a channel over all positions are mean
and standard deviation, of convolutional networks the maximum, too; a class token, which summarises the image by itself,
stands in place of the mean. Which blocks and statistics are the default, and what others reached:
docs/decisions/learning.md.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_s2a.errors import UserError
from edge_s2a.host.adapters.blocks import Block, NoBlocksError, blocks_of
from edge_s2a.host.sources.timm import classifier_names
from edge_s2a.host.trace.capture import Captured, capture_forward, infer

LEAST_VARIANCE = 1e-12  # keeps rounding from making the root of a negative number


class Tap(NamedTuple):
    """What is tapped of a model."""

    name: str
    module: nn.Module
    layout: str  # of the output, as in Block; "vector": (batch, channels) that the module reads
    prefix_tokens: int  # before those of the image, in the layout "tokens"
    has_class: bool  # whether the first of these is a class token


def find_taps(model: nn.Module, image_shape: tuple[int, ...], text: str) -> list[Tap]:
    """The taps that `text` chooses, in the order in which they run: "auto", "all", "last:N" or numbers of blocks, from
    1 on, joined by commas. A model without blocks, or whose blocks return anything but one map or its tokens, is tapped
    at what its classifiers read. Must be called before adapters are injected. Raises UserError where `text` is wrong.
    """
    try:
        blocks = blocks_of(model, image_shape)
        require_tensors(model, blocks, image_shape)
    except NoBlocksError as error:
        if text != "auto":
            raise UserError(f"--taps {text}: {error}; leave --taps out, to tap what the classifier reads") from error
        return [Tap(name, model.get_submodule(name), "vector", 0, False) for name in classifier_names(model)]
    has_class = getattr(model, "cls_token", None) is not None  # registers are prefix tokens, too
    return [
        Tap(block.name, block.module, block.layout, block.prefix_tokens, has_class and block.prefix_tokens > 0)
        for block in choose(blocks, text)
    ]


def require_tensors(model: nn.Module, blocks: Sequence[Block], image_shape: tuple[int, ...]) -> None:
    """Raises NoBlocksError unless each block returns one tensor of its layout."""
    returned: dict[nn.Module, Any] = {}
    handles = [
        block.module.register_forward_hook(lambda module, _inputs, output: returned.update({module: output}))
        for block in blocks
    ]
    with torch.no_grad():
        model(torch.zeros(1, *image_shape))
    for handle in handles:
        handle.remove()
    for block in blocks:
        output = returned[block.module]
        rank = 3 if block.layout == "tokens" else 4
        if not isinstance(output, Tensor) or output.ndim != rank or len(output) != 1:
            raise NoBlocksError(f"block {block.name} of {type(model).__name__} does not return one map or its tokens")


def choose(blocks: Sequence[Block], text: str) -> list[Block]:
    """The blocks that `text` names. Raises UserError where it names none."""
    if text == "auto":
        return list(blocks[len(blocks) // 2 :])  # earlier ones cost accuracy
    if text == "all":
        return list(blocks)
    if re.fullmatch(r"last:[1-9][0-9]{0,3}", text):
        return list(blocks[-int(text.removeprefix("last:")) :])
    if not re.fullmatch(r"[1-9][0-9]{0,3}(,[1-9][0-9]{0,3})*", text):
        raise UserError(
            f"--taps {text}: write auto, all, last:N, or numbers of blocks such as 2,4,6; the model has blocks 1 to "
            f"{len(blocks)}"
        )
    numbers = sorted({int(number) for number in text.split(",")})
    if numbers[-1] > len(blocks):
        raise UserError(f"--taps {text}: there is no block {numbers[-1]}; the model has blocks 1 to {len(blocks)}")
    return [blocks[number - 1] for number in numbers]


def capture_taps(
    model: nn.Module, adapter: dict[str, Tensor], image_shape: tuple[int, ...], taps: Sequence[Tap]
) -> Captured:
    """Inputs of the graph: the adapter tensors, image. Outputs: logits (batch, classes), then each statistic (batch,
    channels); without adapter the statistics alone, for then the logits are of a head that nobody trains."""

    def compute(values: dict[str, Tensor], image: Tensor) -> tuple[Tensor, ...]:
        logits, found = logits_and_taps(model, values, image, taps)
        return (logits, *found.values()) if adapter else tuple(found.values())

    return capture_forward(adapter, image_shape, compute)


def logits_and_taps(
    model: nn.Module, adapter: dict[str, Tensor], image: Tensor, taps: Sequence[Tap]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits (batch, classes) of images float32 (batch, 3, height, width), and each statistic (batch, channels) by
    name. Run eagerly, this is the reference for the device; traced, it becomes the graph "taps"."""
    with torch.no_grad(), tapping(taps) as found:
        return infer(model, adapter, image), found


def widths_of(model: nn.Module, image_shape: tuple[int, ...], taps: Sequence[Tap]) -> dict[str, int]:
    """name of each statistic, in order -> its numbers per image."""
    with torch.no_grad(), tapping(taps) as found:
        model(torch.zeros(1, *image_shape))
    return {name: value.shape[1] for name, value in found.items()}


@contextlib.contextmanager
def tapping(taps: Sequence[Tap]) -> Iterator[dict[str, Tensor]]:
    """Yields a dict that each forward pass within the block fills: name of the statistic -> (batch, channels).

    Hooks that were registered before, such as those of adapters, act first: what is tapped is what the next block
    reads.
    """
    found: dict[str, Tensor] = {}

    def attach(tap: Tap) -> torch.utils.hooks.RemovableHandle:
        if tap.layout == "vector":
            return tap.module.register_forward_pre_hook(
                lambda _module, inputs: found.update({f"{tap.name}:input": vector_of(inputs[0])})
            )
        return tap.module.register_forward_hook(
            lambda _module, _inputs, output: found.update(
                {f"{tap.name}:{name}": value for name, value in statistics(output, tap)}
            )
        )

    handles = [attach(tap) for tap in taps]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def vector_of(features: Tensor) -> Tensor:
    """What a classifier reads, (batch, channels), (batch, channels, 1, 1), or (batch, tokens, channels), as one vector
    for each image: (batch, channels)."""
    return features.mean(1) if features.ndim == 3 else features.flatten(1)


def statistics(output: Tensor, tap: Tap) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, value (batch, channels)) of each statistic of a block's output, (batch, tokens, channels), (batch,
    height, width, channels) or (batch, channels, height, width) as the layout of `tap` says."""
    if tap.layout != "NCHW":
        output = functional.layer_norm(output, output.shape[-1:])
    if tap.has_class:
        yield "class", output[:, 0]
    if tap.layout == "tokens":
        output = output[:, tap.prefix_tokens :]
    positions = {"tokens": (1,), "NHWC": (1, 2), "NCHW": (2, 3)}[tap.layout]
    mean = output.mean(positions)
    if not tap.has_class:
        yield "mean", mean
    if tap.layout == "NCHW":
        yield "maximum", output.amax(positions)
    variance = (output * output).mean(positions) - mean * mean
    yield "deviation", variance.clamp(min=LEAST_VARIANCE).sqrt()
