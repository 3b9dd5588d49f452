"""Format `timm`: a state dict of the timm model itself."""

from pathlib import Path

import numpy as np
from safetensors.torch import save
from torch import nn

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.files import write_bytes
from edge_s2a.errors import UserError
from edge_s2a.host.export.module import adapted_module, timm_model


def export_timm(artifact: Artifact, adapter: dict[str, np.ndarray], output: Path) -> nn.Module:
    """Writes a safetensors file that timm.create_model(name, num_classes=..., **model_kwargs) loads with strict=True,
    and returns that model with these weights. Frozen BatchNorm is folded into the layers before it, with mean 0 and
    variance 1.

    Raises UserError where a trained tensor has no place in timm's model: the adapter added a module, or a bias to a
    layer that has none.
    """
    state = adapted_module(artifact, adapter).state_dict()
    model = timm_model(artifact.manifest)
    own = model.state_dict()
    extra = sorted(set(state) - set(own))
    if extra:
        raise UserError(
            f"{len(extra)} trained tensors have no place in timm's {artifact.manifest.model}, first {extra[0]}; "
            "export it as onnx or torch"
        )
    state = {name: state[name].contiguous() for name in own}
    model.load_state_dict(state, strict=True)
    metadata = {"model": artifact.manifest.model, "num_classes": str(artifact.manifest.num_classes)}
    write_bytes(output, save(state, metadata))
    return model
