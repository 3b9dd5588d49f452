"""Injects adapters into a model and says which of its tensors are trained."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edge_s2a.errors import UserError
from edge_s2a.host.adapters.blocks import Block, NoBlocksError, blocks_of
from edge_s2a.host.adapters.depth import modules_before
from edge_s2a.host.adapters.kind import Backbone, Kind, Starts
from edge_s2a.host.adapters.registry import IMPLIED, KINDS, choices


def inject(
    model: nn.Module,
    kinds: Sequence[str],
    image_shape: tuple[int, ...],
    classes: int,
    seed: int,
    where: str = "the adapter",
    first: int = 1,
) -> dict[str, Tensor]:
    """Injects `kinds` and returns the trained tensors by name, in the order of the model's parameters.

    kinds: text forms, as `parse_adapter` returns them; the head is always trained. Everything else is frozen. The
    adapted model initially computes what the model did. where: what holds `kinds`, for error messages. first: number,
    from 1 on, of the first block that they act in. Raises UserError for kinds that do not exist or do not suit the
    model.
    """
    chosen = choices(kinds, where)
    blocks = (
        blocks_for([kind for kind, _ in chosen], model, image_shape) if first == 1 else blocks_of(model, image_shape)
    )
    early = modules_before(model, blocks[first - 1], image_shape) if first > 1 else frozenset()
    generator = torch.Generator().manual_seed(seed)
    backbone = Backbone(model, image_shape, classes, blocks[first - 1 :], generator, early)
    trained = {name for kind, options in chosen for name in kind.inject(backbone, options)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    return used_parameters(model, image_shape)


def blocks_for(kinds: Sequence[Kind[Any]], model: nn.Module, image_shape: tuple[int, ...]) -> list[Block]:
    """The blocks of `model` if one of `kinds` reads them. Raises UserError if the model has none."""
    if not any(kind.reads_blocks for kind in kinds):
        return []
    try:
        return blocks_of(model, image_shape)
    except NoBlocksError as error:
        without = "+".join(kind.name for kind in KINDS if not kind.reads_blocks and kind is not IMPLIED)
        raise UserError(f"{error}; use --adapter {without}, which needs none") from error


def used_parameters(model: nn.Module, image_shape: tuple[int, ...]) -> dict[str, Tensor]:
    """The trainable parameters that the logits depend on; the others (of a layer that does not run, or whose
    bias is read elsewhere) are frozen."""
    named: dict[str, Tensor] = {name: value for name, value in model.named_parameters() if value.requires_grad}
    logits = functional_call(model, named, (torch.zeros(1, *image_shape),))
    gradients = torch.autograd.grad(logits.sum(), list(named.values()), allow_unused=True)
    used = {}
    for (name, parameter), gradient in zip(named.items(), gradients, strict=True):
        if gradient is None:
            parameter.requires_grad_(False)
        else:
            used[name] = parameter
    return used


def starts_of(kinds: Sequence[str], model: nn.Module, adapter: Mapping[str, Tensor], classes: int) -> Starts:
    """Which tensors of `adapter`, as `inject` returned it for these kinds, the device may set before the first step."""
    starts = [kind.starts(model, adapter, classes) for kind, _ in choices(kinds, "the adapter")]
    return Starts(
        at_class_means=[name for start in starts for name in start.at_class_means],
        at_gradient=[name for start in starts for name in start.at_gradient],
    )
