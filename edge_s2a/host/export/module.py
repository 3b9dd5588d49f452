"""The adapted model of an artifact as a torch module, and back."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edge_s2a.artifact import tensors
from edge_s2a.artifact.adapter import check_shapes, load_adapter, save_adapter
from edge_s2a.artifact.archive import ADAPTER, WEIGHTS, Artifact
from edge_s2a.artifact.manifest import Manifest
from edge_s2a.errors import UserError
from edge_s2a.host.adapters.inject import inject
from edge_s2a.host.sources.batch_norm_fold import fold_batch_norms
from edge_s2a.host.sources.preprocessing import preprocessing_of
from edge_s2a.host.sources.timm import create_model
from edge_s2a.host.sources.weight_names import readings
from edge_s2a.host.sources.weights_file import read_weights
from edge_s2a.host.weights import named_constants, restore


def load_module(artifact: str | os.PathLike, adapter: str | os.PathLike | None = None) -> nn.Module:
    """The model of an artifact in torch, in evaluation mode, with the artifact's frozen weights and the adapter in the
    file `adapter`, by default the artifact's initial one. What the device trains has requires_grad; activations are
    kept in float32.

    Raises UserError where the installed timm makes another model than the one that was packed.
    """
    opened = Artifact(Path(artifact))
    if adapter is None:
        values, _ = tensors.decode(opened.read(ADAPTER), f"{ADAPTER} of {artifact}")
    else:
        values, _ = load_adapter(Path(adapter), opened.manifest)
    return adapted_module(opened, values)


def save_module_adapter(
    artifact: str | os.PathLike, module: nn.Module, path: str | os.PathLike, classes: list[str] | None = None
) -> None:
    """Writes the trained tensors of `module` (see `load_module`) as an adapter file, which the device can open.
    classes: names of the classes, if the artifact has none."""
    opened = Artifact(Path(artifact))
    write_adapter(opened, dict(module.state_dict()), Path(path), classes, "the module")


def import_adapter(
    artifact: str | os.PathLike, state: str | os.PathLike, path: str | os.PathLike, classes: list[str] | None = None
) -> None:
    """Writes an adapter file from a state dict in a safetensors or torch file, of the whole module or of its trained
    tensors; see `save_module_adapter`."""
    opened, where = Artifact(Path(artifact)), f"state dict {state}"
    wanted = opened.manifest.adapter_shapes.keys()
    values = max(readings(read_weights(Path(state)).tensors, wanted, where), key=lambda read: len(wanted & read.keys()))
    write_adapter(opened, values, Path(path), classes, where)


def write_adapter(
    artifact: Artifact, state: dict[str, torch.Tensor], path: Path, classes: list[str] | None, where: str
) -> None:
    manifest = artifact.manifest
    values = {
        name: np.ascontiguousarray(state[name].detach().cpu().float().numpy())
        for name in manifest.adapter_shapes
        if name in state
    }
    check_shapes(values, manifest, where)
    save_adapter(path, values, manifest, manifest.class_names(classes))


def adapted_module(artifact: Artifact, values: dict[str, np.ndarray]) -> nn.Module:
    """The model of an artifact in torch with `values`, the adapter's tensors by name."""
    manifest = artifact.manifest
    model = timm_model(manifest)
    image_shape = (3, *manifest.preprocessing.image_size)
    fold_batch_norms(model, image_shape)
    where = f"the adapter of {artifact.path}"
    adapter = inject(model, manifest.adapter, image_shape, manifest.num_classes, seed=0, where=where,
                     first=manifest.first_block)  # fmt: skip
    stored, _ = tensors.decode(artifact.read(WEIGHTS), f"{WEIGHTS} of {artifact.path}")
    if {name: list(tensor.shape) for name, tensor in adapter.items()} != manifest.adapter_shapes:
        raise UserError(another_model(artifact, "trained tensors"))
    try:
        restore(named_constants(model, set(adapter)), stored)
    except (KeyError, ValueError) as error:
        raise UserError(another_model(artifact, str(error))) from error
    with torch.no_grad():
        for name, tensor in adapter.items():
            tensor.copy_(torch.from_numpy(np.array(values[name])))
    return model


def another_model(artifact: Artifact, what: str) -> str:
    return (
        f"the installed timm makes another {artifact.manifest.model} than {artifact.path} was packed from ({what}); "
        f"install the version of timm that {artifact.manifest.producer} used"
    )


def timm_model(manifest: Manifest) -> nn.Module:
    """The model without an adapter, with random weights."""
    size = manifest.preprocessing.image_size

    def made(image_size: int | None) -> nn.Module:
        return create_model(
            manifest.model, manifest.model_kwargs, manifest.num_classes, image_size, None, False, seed=0
        )

    model = made(None)
    return model if tuple(preprocessing_of(model, None).image_size) == tuple(size) else made(size[0])
