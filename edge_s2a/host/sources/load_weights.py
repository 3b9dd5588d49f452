"""Loads a file of weights into a timm model, or says why it does not fit."""

import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from edge_s2a.errors import UserError
from edge_s2a.host.sources.weight_names import readings
from edge_s2a.host.sources.weights_file import read_weights

Tensors = dict[str, torch.Tensor]

SHOWN = 3  # tensors of another shape that a message names


class Misfit(NamedTuple):
    """What keeps tensors from being those of a model, apart from its classifier: `wanted` tensors."""

    wanted: int
    missing: list[str]
    unknown: list[str]
    different: list[str]  # name and shapes

    @property
    def problems(self) -> int:
        return len(self.missing) + len(self.unknown) + len(self.different)


def load_weights(model: nn.Module, classifiers: Collection[str], path: Path) -> None:
    """Loads the weights in a safetensors or torch file into `model`. Its `classifiers`, names of layers, are left out:
    the file may have none, or of another size.

    timm's own filter resizes position embeddings to the model's image size and renames the tensors of other publishers
    of the same architecture. Raises UserError unless the file has all other tensors, and finite.
    """
    weights = read_weights(path)
    where = f"weights {path}" + (f" ({weights.entry})" if weights.entry else "")
    head = tuple(f"{name}." for name in classifiers)
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(head)}
    state, misfit = best_reading(weights.tensors, model, own, head, where)
    if misfit.problems:
        raise UserError(f"{where} do not fit the model: {explained(misfit)}")
    state = {name: state[name] for name in own if name in state}
    for name, tensor in state.items():
        if own[name].is_floating_point() and not tensor.is_floating_point():
            raise UserError(f"{where}: {name} is {tensor.dtype}; give weights that are not quantised")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{where}: {name} has values that are not finite; use an earlier checkpoint")
    model.load_state_dict(state, strict=False)


def best_reading(
    tensors: Tensors, model: nn.Module, own: Tensors, head: tuple[str, ...], where: str
) -> tuple[Tensors, Misfit]:
    """The tensors by the model's names, as the first of the `readings` that fits gives them, else the one that comes
    closest."""
    convert: Callable[[Tensors, nn.Module], Tensors] | None
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    found: list[tuple[Tensors, Misfit]] = []
    failure: Exception | None = None
    for reading in readings(tensors, set(model.state_dict()), where):
        try:
            state = convert(dict(reading), model) if convert else reading
        except Exception as error:  # the filter assumes weights of the model's family
            failure = failure or error
            continue
        found.append((state, compare(state, own, head)))
        if not found[-1][1].problems:
            break
    if not found:
        raise UserError(f"{where} do not fit the model: {failure}; give the weights of this model") from failure
    return min(found, key=lambda one: one[1].problems)


def compare(state: Tensors, own: Tensors, head: tuple[str, ...]) -> Misfit:
    # Nothing reads how many batches a BatchNorm has seen; files of old torch do not say it.
    wanted = [name for name in own if not name.endswith("num_batches_tracked")]
    return Misfit(
        len(wanted),
        missing=[name for name in wanted if name not in state],
        unknown=[name for name in state if name not in own and not name.startswith(head)],
        different=[
            f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ],
    )


def explained(misfit: Misfit) -> str:
    """Says what is wrong and what to do."""
    wanted, missing, unknown, different = misfit
    parts = [f"{wanted - len(missing)} of its {wanted} tensors are there"]
    if missing:
        parts.append(f"the first missing is {missing[0]}")
    if unknown:
        parts.append(f"{len(unknown)} more are unknown, the first {unknown[0]}")
    if different:
        shown = ", ".join(different[:SHOWN]) + (", ..." if len(different) > SHOWN else "")
        parts.append(f"{len(different)} have another shape: {shown}")
    if len(missing) == wanted:
        advice = "these are the weights of another model: give those of this one"
    elif different and not missing and not unknown:
        advice = "the file is of another size of this model: give the name of that model, or change --model-kwargs"
    else:
        advice = "give the weights of this model, or change --model-kwargs"
    return f"{', '.join(parts)}; {advice}"
