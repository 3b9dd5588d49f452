"""Gradient parity on every family, what crosses from the forward to the backward pass, and taps."""

import numpy as np
import pytest
import torch
from torch.func import functional_call

from edge_s2a.artifact import tensors
from edge_s2a.artifact.archive import GOLDEN, Artifact
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.device.engine.onnxruntime import OnnxRuntimeEngine
from edge_s2a.device.selfcheck import check
from edge_s2a.host.graph.ir import UINT4
from edge_s2a.host.pack import adapt, build_graphs, write_artifact
from edge_s2a.host.taps import logits_and_taps
from edge_s2a.host.targets.onnxruntime.liveness import crossings
from edge_s2a.host.trace.capture import loss_and_gradients, soft_cross_entropy
from tests.helpers.artifacts import SMALL_VIT, adapt_and_pack, options_of

ALL = ("bias", "prompt", "side", "lowrank")
SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4)}
# family -> (timm name, arguments, image size, modules): as few blocks as still have every kind of block
FAMILIES = {
    "vit": ("vit_tiny_patch16_224", {**SMALL_VIT, "img_size": 64}, None, ALL),
    "vit with attention pooling": ("vit_base_patch16_siglip_224", {**SMALL_VIT, "img_size": 64}, None, ALL),
    "beit": ("beit_base_patch16_224", {**SMALL_VIT, "img_size": 64}, None, ALL),
    "swin": ("swin_tiny_patch4_window7_224", SWIN, None, ALL),
    "swinv2": ("swinv2_tiny_window8_256", SWIN, None, ("bias",)),
    "resnet": ("resnet18", {"layers": (1, 1, 1, 1)}, 64, ALL),
    "resnet-d": ("resnet26d", {"layers": (1, 2, 1, 1)}, 64, ALL),
    "convnext": ("convnext_atto", {"depths": (1, 1, 2, 1), "dims": (16, 24, 32, 48)}, 64, ALL),
    "mobilenetv2": ("mobilenetv2_035", {"pad_type": "same", "depth_multiplier": 0.5}, 64, ALL),
    "mobilenetv3": ("mobilenetv3_small_050", {"depth_multiplier": 0.6}, 64, ALL),
    "efficientnet with relu6": ("test_efficientnet", {"act_layer": "relu6"}, 64, ("bias", "side")),
    "efficientnet": ("test_efficientnet", {}, 64, ("bias", "lowrank")),
    "regnet": ("regnety_002", {"depth": 8}, 64, ALL),
    "densenet": ("densenet121", {"block_config": (2, 2, 2)}, 64, ("bias",)),
    "poolformer": ("poolformer_s12", {}, 64, ("bias",)),
    "mixer": ("mixer_s32_224", {"img_size": 64}, None, ALL),
}
SMOOTH = {
    "vit",
    "vit with attention pooling",
    "beit",
    "swin",
    "swinv2",
    "convnext",
    "poolformer",
    "mixer",
    "efficientnet",
}
BATCHES = (1, 2, 5)
# A float32 tensor that crosses and grows with the batch; codes, their float16 scales and deviations are apart.
LARGEST_FLOAT_BYTES_PER_IMAGE = 2048
# Products of the prompts' row and column factors, which the batch does not multiply.
LARGEST_CONSTANT_BYTES = 128 * 1024


def family_options(family, bits):
    name, kwargs, image_size, kinds = FAMILIES[family]
    return options_of(
        model=name, model_kwargs=kwargs, image_size=image_size, adapter="+".join(kinds), saved_bits=str(bits),
        weight_format="fp32",
    )  # fmt: skip


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """(family, bits) -> (engine, adapted model, at 4 bits the training graph), the first two perturbed alike. At 4 bits
    the artifact has passed its check."""
    cache = {}

    def get(family, bits):
        if (family, bits) not in cache:
            path = tmp_path_factory.mktemp("family") / "model.s2a"
            options = family_options(family, bits)
            if bits == 32:
                adapted, training = adapt_and_pack(path, options), None
            else:
                adapted = adapt(options)
                graphs = build_graphs(options, adapted)
                write_artifact(options, adapted, graphs, path)
                training = graphs["training"]
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for value in adapted.adapter.values():
                    value.add_(torch.randn(value.shape, generator=generator) * 0.05)
            artifact = Artifact(path)
            engine = OnnxRuntimeEngine(artifact, EngineSettings(threads=1))
            if bits == 4:
                checked = check(artifact, tensors.decode(artifact.read(GOLDEN), "golden")[0], engine)
                assert checked["ok"], checked
            for name, array in engine.adapter.items():
                array[...] = adapted.adapter[name].detach().numpy()
            cache.clear()  # one engine at a time
            cache[family, bits] = engine, adapted, training
        return cache[family, bits]

    return get


def whole(gradients):
    return np.concatenate([np.asarray(gradient).ravel() for gradient in gradients])


def relative_error(measured, expected):
    return np.linalg.norm(measured - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(("family", "bits"), [(family, bits) for family in FAMILIES for bits in (32, 4)])
def test_gradients(packed, family, bits):
    """At 32 bits against torch's own operators, at 4 bits against the eager reference of the same scheme.

    1e-5 is float32 in another order; at 4 bits, and where a ReLU's input rounds to the other side of zero, single
    values jump: measured up to 1e-3 of the whole gradient, between torch's float32 and float64 as well.
    """
    engine, adapted, graph = packed(family, bits)
    for batch in BATCHES:
        generator = torch.Generator().manual_seed(batch)
        image = torch.randn(batch, 3, *adapted.preprocessing.image_size, generator=generator)
        target = torch.softmax(torch.randn(batch, 3, generator=generator), -1) / batch
        if bits == 32:
            logits = functional_call(adapted.model, adapted.adapter, (image,))
            loss = soft_cross_entropy(logits, target)
            expected = torch.autograd.grad(loss, list(adapted.adapter.values()))
        else:
            loss, logits, *expected = loss_and_gradients(adapted.model, adapted.adapter, image, target, adapted.scheme)
        measured = engine.training_step(image.numpy(), target.numpy())
        np.testing.assert_allclose(measured.logits, logits.detach().numpy(), rtol=1e-4, atol=1e-4)
        tolerance = 1e-5 if bits == 32 and family in SMOOTH else 5e-3
        gradients = whole([measured.gradients[name] for name in adapted.adapter])
        assert relative_error(gradients, whole(expected)) <= tolerance

    if bits == 4:
        assert_only_codes_cross(graph)
        assert_taps(engine, adapted, image, logits)


def assert_taps(engine, adapted, image, logits):
    """The taps are what torch computes (tests/host/test_taps.py says what that is), beside the same logits: rounding
    stays below 1e-4 of all taps, as in logits, also where a ReLU's input rounds to the other side of zero."""
    _, expected = logits_and_taps(adapted.model, adapted.adapter, image, adapted.taps)
    measured = engine.taps(image.numpy())
    assert measured.features.shape == (len(image), sum(adapted.tap_widths.values()))
    assert relative_error(measured.features, np.concatenate([value.numpy() for value in expected.values()], 1)) <= 1e-4
    np.testing.assert_allclose(measured.logits, logits.detach().numpy(), rtol=1e-4, atol=1e-4)


def assert_only_codes_cross(graph):
    """Walks the training graph: every tensor that the forward pass leaves for the backward pass."""
    crossing = crossings(graph)
    listing = "\n".join(f"{c.name} {c.dtype} {c.bytes_per_image} bytes per image" for c in crossing)
    assert crossing
    for tensor in crossing:
        assert tensor.dtype in (UINT4, np.uint8, np.float16, np.float32, np.int64), listing
        if tensor.dtype == np.float32:
            assert tensor.bytes_per_image <= LARGEST_FLOAT_BYTES_PER_IMAGE, listing
        assert tensor.bytes_constant <= LARGEST_CONSTANT_BYTES, listing
    # A scale and a minimum for at least 16 values of 4 bits: a quarter of a byte beside half a byte.
    codes = sum(c.bytes_per_image for c in crossing if c.dtype in (UINT4, np.uint8))
    scales = sum(c.bytes_per_image for c in crossing if c.dtype == np.float16)
    assert scales <= 0.6 * codes, listing


def test_float_activations_would_be_noticed():
    """The walk sees what 32 bits leave: the assertion above can fail."""
    options = family_options("vit", 32)
    graph = build_graphs(options, adapt(options))["training"]
    with pytest.raises(AssertionError, match="float32"):
        assert_only_codes_cross(graph)
