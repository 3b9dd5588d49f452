"""What a kind of adapter says of itself.

Each kind is one file with plain functions and one `Kind`, which `registry.py` lists. Nothing else knows a kind by name.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from edge_s2a.host.adapters.blocks import Block

OptionsT = TypeVar("OptionsT")


class Backbone(NamedTuple):
    """The model that a kind is injected into, and what is known about it."""

    model: nn.Module
    image_shape: tuple[int, ...]  # channels, height, width
    classes: int
    blocks: list[Block]  # to act in, in the order in which they run; empty unless a chosen kind has `reads_blocks`
    generator: torch.Generator  # draws initial values, for one kind after the other
    early: frozenset[nn.Module]  # that run before the first of them, where not all blocks are acted in


class Starts(NamedTuple):
    """What the device may set before the first step of a new run, by the method of `device/start` that sets it."""

    at_class_means: list[str]  # classifiers: the manifest's field `head`
    at_gradient: list[str]  # low-rank maps: the manifest's field `low_rank_maps`


def starts_as_injected(_model: nn.Module, _adapter: Mapping[str, Tensor], _classes: int) -> Starts:
    return Starts([], [])


@dataclass(frozen=True)
class NoOptions:
    """Options of a kind that has none."""


@dataclass(frozen=True)
class Kind(Generic[OptionsT]):
    """One kind of adapter.

    options: a frozen dataclass whose fields are made by `whole_number`, or by anything else that gives a default and
    the metadata "parse" and "help". inject: changes the model in place, so that it still computes what it did, and
    returns the names of the parameters to train; a constant that it adds is a buffer, because the model's parameters
    are the backbone (see `graph/frozen_prefix.py`). starts: which of the trained tensors, by name, the device may set.
    peft: the fields of PEFT's LoraConfig with which PEFT loads the trained tensors under their own names, for the model
    without adapters; None if it cannot. Formats other than `peft` need nothing from a kind: `onnx`, `torch` and
    `ort-training` hold every kind, `timm` those that train only parameters of timm's model.
    """

    name: str
    help: str
    options: type[OptionsT]
    inject: Callable[[Backbone, OptionsT], list[str]]
    reads_blocks: bool = True
    starts: Callable[[nn.Module, Mapping[str, Tensor], int], Starts] = starts_as_injected
    peft: Callable[[nn.Module], dict[str, Any]] | None = None


def whole_number(default: Any, least: int, most: int, help: str) -> Any:
    """A dataclass field for an option from `least` to `most`; its "parse" raises ValueError for any other text."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(text)

    return field(default=default, metadata={"parse": parse, "help": help})


def parameters_below(model: nn.Module, *modules: str) -> list[str]:
    """Names of all parameters of the named modules, in the order of the model's."""
    prefixes = tuple(f"{module}." for module in modules)
    return [name for name, _ in model.named_parameters() if name.startswith(prefixes)]
