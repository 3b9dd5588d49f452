"""Where nothing that is trained acts in the backbone, its features are a program of their own."""

import numpy as np
import pytest
import torch
from torch.func import functional_call

from edge_s2a.artifact.archive import PROGRAM, Artifact
from edge_s2a.artifact.names import IMAGE
from edge_s2a.artifact.program import from_json
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.device.engine.onnxruntime import OnnxRuntimeEngine
from edge_s2a.host.pack import adapt, build_graphs
from edge_s2a.host.trace.capture import soft_cross_entropy
from edge_s2a.options import PackOptions
from tests.helpers.artifacts import adapt_and_pack
from tests.helpers.models import MODELS

CLASSES, BATCH = 3, 3
# Rounding of float32 in another order, through some twenty layers.
TOLERANCE = 1e-4


def options_for(model_key, kinds):
    """At 32 bits, because torch's own gradient is the reference."""
    name, kwargs, _, _ = MODELS[model_key]
    size = {} if "img_size" in kwargs else {"image_size": 64}
    return PackOptions(
        name,
        "unused.s2a",
        num_classes=CLASSES,
        model_kwargs=kwargs,
        adapter="+".join(kinds),
        saved_bits="32",
        weight_format="fp32",
        **size,
    )


SPLIT = [
    *((key, ("side",)) for key in ("vit", "swin", "resnet", "convnext", "mobilenetv3")),
    *((key, ("head",)) for key in ("vit", "swin", "resnet", "mobilenetv3")),
    ("mobilenetv2", ("side:pooling=4",)),
]


@pytest.fixture(scope="module", params=SPLIT, ids=lambda param: f"{param[0]}-{param[1][0]}")
def packed(request, tmp_path_factory):
    """(adapted model, artifact)."""
    path = tmp_path_factory.mktemp("features") / "model.s2a"
    adapted = adapt_and_pack(path, options_for(*request.param))
    return adapted, Artifact(path)


def test_training_and_inference_read_features_in_place_of_the_image(packed):
    _, artifact = packed
    programs = from_json(artifact.read(PROGRAM), artifact.graph_count, "")
    assert set(programs) == {"features", "training", "inference", "taps"}
    reads = {name: {value for call in calls for value in call.inputs} for name, calls in programs.items()}
    assert {name for name in reads if IMAGE in reads[name]} == {"features", "taps"}
    made = {value for call in programs["features"] for value in call.outputs}
    assert set(artifact.manifest.features) <= made
    # Nothing that is trained acts in the backbone.
    assert not reads["features"] & set(artifact.manifest.adapter_shapes)
    weights = {name for name in reads["features"] if name.startswith(("blocks", "layers", "stages", "layer"))}
    assert weights
    assert not reads["training"] & weights
    # The head reads one vector per image; a branch reads a map of each block, too.
    shapes = artifact.manifest.features.values()
    assert (len(shapes) == 1) == (artifact.manifest.adapter == ["head"])


@pytest.mark.parametrize(
    "kinds", [("bias",), ("prompt",), ("lowrank",), ("bias", "side"), ("side", "lowrank:rank=1")], ids="+".join
)
@pytest.mark.parametrize("model_key", ["vit", "mobilenetv2"])
def test_what_acts_in_the_backbone_leaves_the_graphs_whole(model_key, kinds):
    """Though a stem, at least, depends on the image alone."""
    options = options_for(model_key, kinds)
    assert set(build_graphs(options, adapt(options))) == {"training", "inference", "taps"}


def assert_a_step_is_that_of_the_whole_model(adapted, artifact):
    """Loss, logits and every gradient, from features and from images, against torch's autograd."""
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


def test_training_from_features_is_training(packed):
    assert_a_step_is_that_of_the_whole_model(*packed)
