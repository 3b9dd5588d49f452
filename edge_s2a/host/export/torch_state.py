"""Format `torch`: the state dict of the adapted module."""

from pathlib import Path

import numpy as np
from safetensors.torch import save
from torch import nn

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.files import write_bytes
from edge_s2a.host.export.module import adapted_module


def export_torch(artifact: Artifact, adapter: dict[str, np.ndarray], output: Path) -> nn.Module:
    """Writes a safetensors file with all tensors of the module that `edge_s2a.load_module` makes of the artifact, and
    returns that module."""
    module = adapted_module(artifact, adapter)
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    write_bytes(output, save(state, {"model": artifact.manifest.model}))
    return module
