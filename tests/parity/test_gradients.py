"""The device's graphs compute what torch computes: whole tensors, several batch sizes, models and formats."""

import numpy as np
import pytest
import torch
from torch.func import functional_call

from edge_s2a.artifact.archive import Artifact
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.device.engine.onnxruntime import OnnxRuntimeEngine
from edge_s2a.host.sources.timm import create_model
from edge_s2a.host.trace.capture import loss_and_gradients, soft_cross_entropy
from edge_s2a.host.weights import freeze
from tests.helpers.artifacts import SMALL_VIT, adapt_and_pack, options_of

BATCHES = (1, 2, 5)
MODELS = {
    "class token": ("vit_tiny_patch16_224", {}),
    "average pooling, registers, no class token": (
        "vit_tiny_patch16_224",
        {"global_pool": "avg", "class_token": False, "reg_tokens": 4, "qk_norm": True},
    ),
    "layer scale": ("deit3_small_patch16_224", {}),
    "no bias before attention": ("vit_tiny_patch16_224", {"qkv_bias": False}),
    "distillation token": ("deit_tiny_distilled_patch16_224", {}),
}


def perturb(parameters, seed):
    """Moves every parameter from its initial zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """(model, bits, weight format, adapter) -> (engine, adapted model) with the same perturbed parameters."""
    cache = {}

    def get(model_key, bits, weight_format="fp32", kinds=("bias",)):
        key = (model_key, bits, weight_format, kinds)
        if key not in cache:
            name, kwargs = MODELS[model_key]
            folder = tmp_path_factory.mktemp("parity")
            whole = create_model(name, {**SMALL_VIT, **kwargs}, 3, None, None, False, seed=0)
            perturb(whole.parameters(), 1)
            torch.save(whole.state_dict(), folder / "weights.pt")
            options = options_of(
                model=name,
                model_kwargs={**SMALL_VIT, **kwargs},
                weights=folder / "weights.pt",
                saved_bits=str(bits),
                weight_format=weight_format,
                adapter="+".join(kinds),
            )
            adapted = adapt_and_pack(folder / "model.s2a", options)
            perturb(adapted.adapter.values(), 2)
            engine = OnnxRuntimeEngine(Artifact(folder / "model.s2a"), EngineSettings(threads=1))
            for tensor_name, array in engine.adapter.items():
                array[...] = adapted.adapter[tensor_name].detach().numpy()
            cache[key] = engine, adapted
        return cache[key]

    return get


def inputs(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(batch, 3, 32, 32, generator=generator)
    target = torch.softmax(torch.randn(batch, 3, generator=generator), -1) / batch
    return image, target


def exact(adapted, image, target):
    """By torch's own operators."""
    logits = functional_call(adapted.model, adapted.adapter, (image,))
    loss = soft_cross_entropy(logits, target)
    return loss, logits, *torch.autograd.grad(loss, list(adapted.adapter.values()))


def reference(adapted, image, target):
    """By the operators that save codes, run eagerly."""
    return loss_and_gradients(adapted.model, adapted.adapter, image, target, adapted.scheme)


def compare(engine, expected, names, image, target, tolerance):
    """Every gradient tensor within `tolerance` of the norm of the largest."""
    loss, logits, gradients = engine.training_step(image.numpy(), target.numpy())
    expected_loss, expected_logits, *expected_gradients = (x.detach().numpy() for x in expected)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-5)
    # The gradient of a key bias is zero but for rounding: it counts against the mean norm.
    mean = np.sqrt(np.mean([np.linalg.norm(x) ** 2 for x in expected_gradients]))
    for name, gradient in zip(names, expected_gradients, strict=True):
        error = np.linalg.norm(gradients[name] - gradient) / max(np.linalg.norm(gradient), 0.01 * mean)
        assert error <= tolerance, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("model_key", MODELS)
@pytest.mark.parametrize("batch", BATCHES)
def test_32_bit_gradients_equal_torch(packed, model_key, batch):
    """Against torch's own operators, not our substitutes: 1e-5 is float32 in another order."""
    engine, adapted = packed(model_key, 32)
    image, target = inputs(batch)
    compare(engine, exact(adapted, image, target), adapted.adapter, image, target, 1e-5)


@pytest.mark.parametrize("model_key", MODELS)
@pytest.mark.parametrize("batch", BATCHES)
def test_4_bit_gradients_equal_the_eager_reference(packed, model_key, batch):
    """1e-3 leaves room for values on a rounding boundary that tip into the next code."""
    engine, adapted = packed(model_key, 4)
    image, target = inputs(batch)
    compare(engine, reference(adapted, image, target), adapted.adapter, image, target, 1e-3)


@pytest.mark.parametrize("kinds", [("prompt",), ("side",), ("lowrank",), ("bias", "prompt", "side", "lowrank")])
@pytest.mark.parametrize("bits", [4, 32])
def test_structural_modules(packed, kinds, bits):
    engine, adapted = packed("class token", bits, kinds=kinds)
    image, target = inputs(3)
    expected, tolerance = (exact, 1e-5) if bits == 32 else (reference, 1e-3)
    compare(engine, expected(adapted, image, target), adapted.adapter, image, target, tolerance)


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("weight_format", ["fp16", "int8", "int4"])
def test_other_bits_and_weight_formats(packed, bits, weight_format):
    engine, adapted = packed("class token", bits, weight_format)
    image, target = inputs(3)
    compare(engine, reference(adapted, image, target), adapted.adapter, image, target, 1e-3)


@pytest.mark.parametrize("weight_format", ["fp32", "fp16", "int8", "int4"])
def test_inference_graph_equals_torch(packed, weight_format):
    engine, adapted = packed("class token", 8, weight_format)
    for batch in BATCHES:
        image, _ = inputs(batch)
        expected = functional_call(adapted.model, adapted.adapter, (image,)).detach().numpy()
        np.testing.assert_allclose(engine.logits(image.numpy()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [4, 32])
def test_gradients_of_uneven_micro_batches_add_up(packed, bits):
    """5 = 2 + 2 + 1: targets divided by the effective batch size make accumulation exact."""
    engine, _ = packed("class token", bits)
    image, target = inputs(5)
    whole = engine.training_step(image.numpy(), target.numpy())
    whole_gradients = {name: array.copy() for name, array in whole.gradients.items()}
    total = {name: np.zeros_like(array) for name, array in whole_gradients.items()}
    loss = 0.0
    for part in (slice(0, 2), slice(2, 4), slice(4, 5)):
        result = engine.training_step(image[part].numpy(), target[part].numpy())
        loss += result.loss
        for name, array in result.gradients.items():
            total[name] += array
    assert loss == pytest.approx(whole.loss, rel=1e-5)
    norm = np.sqrt(sum(np.linalg.norm(array) ** 2 for array in whole_gradients.values()))
    for name in total:
        assert np.linalg.norm(total[name] - whole_gradients[name]) <= 1e-5 * norm


def test_int8_weights_are_close_to_float(packed):
    """Symmetric int8 a row errs by at most half of 1/127 of the row's largest weight."""
    values = np.random.default_rng(0).standard_normal((8, 3, 4, 4)).astype(np.float32)
    values[5] = 0
    tensor = torch.from_numpy(values.copy())
    weights = freeze({"conv.weight": tensor}, "int8")
    codes, scale = weights.arrays["conv.weight.codes"], weights.arrays["conv.weight.scale"]
    assert codes.dtype == np.int8
    assert codes.nbytes == values.size
    largest = np.abs(values).reshape(8, -1).max(1)
    error = np.abs(tensor.numpy() - values).reshape(8, -1).max(1)
    assert (error <= largest / 127 / 2 * 1.001).all()
    np.testing.assert_array_equal(codes * scale[:, None, None, None], tensor.numpy())
