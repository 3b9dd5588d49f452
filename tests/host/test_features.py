"""Where only the side branch is trained, the backbone's features are a program of their own."""

import numpy as np
import pytest
import torch
from torch.func import functional_call

from edge_s2a.artifact.archive import PROGRAM, Artifact
from edge_s2a.artifact.names import IMAGE
from edge_s2a.artifact.program import from_json
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.device.engine.onnxruntime import OnnxRuntimeEngine
from edge_s2a.host.pack import Options, adapt, build_graphs, write_artifact
from edge_s2a.host.trace.capture import soft_cross_entropy
from tests.host.test_adapters import MODELS

CLASSES, BATCH = 3, 3
# Rounding of float32 in another order, through some twenty layers.
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["vit", "swin", "resnet", "convnext", "mobilenetv3"])
def packed(request, tmp_path_factory):
    """(adapted model, artifact), at 32 bits, for torch's own gradient is the reference."""
    name, kwargs, _, _ = MODELS[request.param]
    size = {} if "img_size" in kwargs else {"image_size": 64}
    options = Options(
        name, CLASSES, model_kwargs=kwargs, adapter_kinds=("side",), saved_bits="32", weight_format="fp32", **size
    )
    adapted = adapt(options)
    path = tmp_path_factory.mktemp("features") / "side.s2a"
    write_artifact(options, adapted, build_graphs(options, adapted), path)
    return adapted, Artifact(path)


def test_the_image_is_read_by_features_alone(packed):
    _, artifact = packed
    programs = from_json(artifact.read(PROGRAM), artifact.graph_count, "")
    assert set(programs) == {"features", "training", "inference"}
    reads = {name: {value for call in calls for value in call.inputs} for name, calls in programs.items()}
    assert [name for name in reads if IMAGE in reads[name]] == ["features"]
    made = {value for call in programs["features"] for value in call.outputs}
    assert set(artifact.manifest.features) <= made
    # Nothing that is trained acts in the backbone.
    assert not reads["features"] & set(artifact.manifest.adapter_shapes)
    weights = {name for name in reads["features"] if name.startswith(("blocks", "layers", "stages", "layer"))}
    assert weights
    assert not reads["training"] & weights


def test_training_from_features_is_training(packed):
    adapted, artifact = packed
    engine = OnnxRuntimeEngine(artifact, EngineSettings(threads=1))
    generator = torch.Generator().manual_seed(0)
    for array in engine.adapter.values():  # a branch that ends in zeros would hide what comes before
        array[...] = torch.randn(array.shape, generator=generator).numpy() * 0.1
    adapter = {name: torch.from_numpy(array.copy()).requires_grad_() for name, array in engine.adapter.items()}
    image = torch.randn(BATCH, 3, *adapted.preprocessing.image_size, generator=generator)
    target = torch.softmax(torch.randn(BATCH, CLASSES, generator=generator), -1)
    expected = functional_call(adapted.model, adapter, (image,))
    loss = soft_cross_entropy(expected, target)
    gradients = dict(zip(adapter, torch.autograd.grad(loss, list(adapter.values())), strict=True))

    features = engine.features(image.numpy())
    for inputs in (features, image.numpy()):
        result = engine.training_step(inputs, target.numpy())
        np.testing.assert_allclose(result.loss, loss.item(), rtol=TOLERANCE)
        np.testing.assert_allclose(engine.logits(inputs), expected.detach().numpy(), atol=TOLERANCE, rtol=TOLERANCE)
        for name, value in gradients.items():
            scale = float(value.abs().max())
            np.testing.assert_allclose(result.gradients[name], value.numpy(), atol=TOLERANCE * scale, err_msg=name)
