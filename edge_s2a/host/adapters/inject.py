"""Puts structural modules into a model and says which of its tensors are trained."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edge_s2a.errors import UserError
from edge_s2a.host.adapters import bias, lowrank, prompt, side
from edge_s2a.host.adapters.blocks import blocks_of
from edge_s2a.host.sources.timm import classifier_names

KINDS = ("bias", "prompt", "side", "lowrank")
S2A = ("bias", "prompt", "side")  # the paper's three


def parse_adapter(text: str) -> list[str]:
    """ "bias+side" -> ["bias", "side"]; "s2a" stands for bias+prompt+side. In the order of KINDS."""
    names = [name for part in text.split("+") for name in (S2A if part == "s2a" else (part,))]
    for name in names:
        if name not in KINDS:
            known = ", ".join(KINDS)
            raise UserError(f"--adapter {text}: there is no module {name!r}; join some of {known} or s2a by +")
    return [kind for kind in KINDS if kind in names]


def inject(
    model: nn.Module, kinds: Sequence[str], image_shape: tuple[int, ...], classes: int, seed: int
) -> dict[str, Tensor]:
    """The trainable tensors by name: those of the structural modules and the whole head. Everything else is
    frozen. The adapted model computes at first what the model did."""
    generator = torch.Generator().manual_seed(seed)
    heads = classifier_names(model)
    blocks = [] if set(kinds) == {"bias"} else blocks_of(model, image_shape)
    trained: list[str] = []
    if "bias" in kinds:
        trained += bias.inject(model)
    # Prompts come before the side branch, which so reads what the block reads.
    if "prompt" in kinds:
        trained += prompt.inject(model, blocks, generator)
    if "side" in kinds:
        modules = [model.get_submodule(name) for name in heads]
        trained += side.inject(model, blocks, modules, classes, generator)
    if "lowrank" in kinds:
        trained += lowrank.inject(model, blocks, image_shape, generator)
    of_head = tuple(f"{name}." for name in heads)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained or name.startswith(of_head))
    return used_parameters(model, image_shape)


def used_parameters(model: nn.Module, image_shape: tuple[int, ...]) -> dict[str, Tensor]:
    """The trainable parameters that the logits depend on; the others (of a layer that does not run, or whose
    bias is read elsewhere) are frozen."""
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    logits = functional_call(model, named, (torch.zeros(1, *image_shape),))
    gradients = torch.autograd.grad(logits.sum(), list(named.values()), allow_unused=True)
    used = {}
    for (name, parameter), gradient in zip(named.items(), gradients, strict=True):
        if gradient is None:
            parameter.requires_grad_(False)
        else:
            used[name] = parameter
    return used
