"""Chooses how deep adapters act: from which block on. What lies before is frozen, and computed once for each image."""

import re

import torch
from torch import nn

from edge_s2a.errors import UserError
from edge_s2a.host.adapters.blocks import Block, NoBlocksError, blocks_of

WHOLE = "1"  # from the first block on


def first_block(model: nn.Module, image_shape: tuple[int, ...], text: str) -> int:
    """The number, from 1 on, of the first block that adapters act in: `text` is that number, or "last:N". Raises
    UserError where the model has no such block."""
    if text == WHOLE:
        return 1
    try:
        count = len(blocks_of(model, image_shape))
    except NoBlocksError as error:
        raise UserError(f"--from-block {text}: {error}; leave --from-block out") from error
    found = re.fullmatch(r"(last:)?([1-9][0-9]{0,3})", text)
    if found is None:
        raise UserError(f"--from-block {text}: write the number of a block, from 1 to {count}, or last:N")
    number = int(found[2])
    if number > count:
        raise UserError(f"--from-block {text}: the model has {count} blocks; give at most {found[1] or ''}{count}")
    return count - number + 1 if found[1] else number


def modules_before(model: nn.Module, block: Block, image_shape: tuple[int, ...]) -> frozenset[nn.Module]:
    """The modules that have run, whole, before a block does."""
    done: set[nn.Module] = set()
    before: list[frozenset[nn.Module]] = []
    handles = [module.register_forward_hook(lambda module, *_: done.add(module)) for module in model.modules()]
    handles.append(block.module.register_forward_pre_hook(lambda *_: before.append(frozenset(done))))
    with torch.no_grad():
        model(torch.zeros(1, *image_shape))
    for handle in handles:
        handle.remove()
    return before[0]
