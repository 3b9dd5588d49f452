"""Format `peft`: a folder that PEFT loads onto the timm model.

PEFT has no method that trains only parameters of the model, but LoRA may carry them: biases by `bias="all"`, whole
modules by `modules_to_save`. So the adapter is LoRA of rank 1 on one layer, whose product is zero, with the parameters
that were trained. Each kind of adapter says how LoRA carries what it trains (`Kind.peft`).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.files import make_folder, write_bytes
from edge_s2a.errors import UserError
from edge_s2a.host.adapters.registry import choices
from edge_s2a.host.export.module import timm_model

PREFIX = "base_model.model."


def export_peft(artifact: Artifact, adapter: dict[str, np.ndarray], output: Path) -> None:
    """Writes adapter_config.json and adapter_model.safetensors into the folder `output`. Raises UserError where PEFT
    cannot hold the adapter: kinds that add modules, biases of layers that have none in timm's model, and what a kind
    itself excludes."""
    manifest = artifact.manifest
    model = timm_model(manifest)
    carried = fields_of_adapter(artifact, model)
    missing = sorted(set(adapter) - set(model.state_dict()))
    if missing:
        raise UserError(no_place_for(missing[0]))
    target, layer = target_of(model, carried.get("modules_to_save", []))
    state = {
        f"{PREFIX}{target}.lora_A.weight": torch.zeros(1, layer.in_features),
        f"{PREFIX}{target}.lora_B.weight": torch.zeros(layer.out_features, 1),
    }
    for name, array in adapter.items():
        module, _, last = name.rpartition(".")
        place = f"{module}.base_layer.{last}" if module == target else name
        state[PREFIX + place] = torch.from_numpy(np.array(array))
    config = {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": manifest.model, "inference_mode": True,
        "r": 1, "lora_alpha": 1, "lora_dropout": 0.0, "bias": "none", "target_modules": [target],
        "modules_to_save": None, "init_lora_weights": True, "fan_in_fan_out": False, **carried,
    }  # fmt: skip
    make_folder(output)
    write_bytes(output / "adapter_config.json", (json.dumps(config, indent=2) + "\n").encode())
    write_bytes(output / "adapter_model.safetensors", save(state, {"format": "pt"}))


def fields_of_adapter(artifact: Artifact, model: nn.Module) -> dict[str, Any]:
    """The fields of LoraConfig with which LoRA carries the artifact's adapter."""
    fields: dict[str, Any] = {}
    for kind, _ in choices(artifact.manifest.adapter, f"the adapter of {artifact.path}"):
        if kind.peft is None:
            raise UserError(no_place_for(kind.name))
        fields |= kind.peft(model)
    return fields


def no_place_for(name: str) -> str:
    return f"PEFT has no place for {name}: it holds only trained parameters of timm's model; export as onnx or torch"


def target_of(model: nn.Module, saved: list[str]) -> tuple[str, nn.Linear]:
    """The layer that LoRA is put on: the first linear one that is not saved whole."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name not in saved:
            return name, module
    raise UserError(
        f"PEFT needs a linear layer beside the trained ones, and {type(model).__name__} has none; export as timm, onnx "
        "or torch"
    )
