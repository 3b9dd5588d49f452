"""Format `peft`: a folder that PEFT loads onto the timm model.

PEFT has no method for biases alone, but LoRA may carry all biases (`bias="all"`): so the adapter is LoRA of rank 1 on
one layer, whose product is zero, with the biases, and with the head among its `modules_to_save`.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.files import make_folder, write_bytes
from edge_s2a.errors import UserError
from edge_s2a.host.export.module import timm_model

PREFIX = "base_model.model."


def export_peft(artifact: Artifact, adapter: dict[str, np.ndarray], output: Path) -> None:
    """Writes adapter_config.json and adapter_model.safetensors into the folder `output`. Raises UserError where PEFT
    cannot hold the adapter: for modules other than bias, biases of layers that have none, and models with BatchNorm,
    whose biases the packager folds with the norm's statistics."""
    manifest = artifact.manifest
    model = timm_model(manifest)
    own = model.state_dict()
    missing = sorted(set(adapter) - set(own))
    if missing or manifest.adapter != ["bias"]:
        raise UserError(
            f"PEFT has no place for {missing[0] if missing else '+'.join(manifest.adapter)}: it loads adapters of "
            "biases alone; export as onnx or torch"
        )
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise UserError(
            f"{manifest.model} has BatchNorm, which is folded into the biases; export as timm, onnx or torch"
        )
    heads = {name.rpartition(".")[0] for name in adapter if not name.endswith("bias")}
    target, layer = next(
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear) and name not in heads
    )
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
        "r": 1, "lora_alpha": 1, "lora_dropout": 0.0, "bias": "all", "target_modules": [target],
        "modules_to_save": sorted(heads), "init_lora_weights": True, "fan_in_fan_out": False,
    }  # fmt: skip
    make_folder(output)
    write_bytes(output / "adapter_config.json", (json.dumps(config, indent=2) + "\n").encode())
    write_bytes(output / "adapter_model.safetensors", save(state, {"format": "pt"}))
