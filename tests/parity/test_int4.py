"""Frozen weights in blocks of 4-bit codes: what is stored, what it stands for, and what the device makes of it."""

import numpy as np
import pytest
import torch
from torch.func import functional_call

from edge_s2a.artifact.archive import Artifact
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.device.engine.onnxruntime import OnnxRuntimeEngine
from edge_s2a.host.trace.capture import soft_cross_entropy
from edge_s2a.host.weights import freeze
from tests.helpers.artifacts import SMALL_VIT, adapt_and_pack, options_of

SHAPES = {"matrix": (6, 64), "pointwise": (8, 24, 1, 1), "kernel": (4, 8, 3, 3), "one block a row": (4, 1, 5, 5)}
UNSUITED = {"depthwise": (8, 1, 3, 3), "few inputs": (4, 8), "prime number of inputs": (4, 37), "odd": (3, 25)}
MODELS = {
    "vit": ("vit_tiny_patch16_224", {**SMALL_VIT, "img_size": 64}, None, 1e-5),
    # A ReLU's input that rounds to the other side of zero moves single values.
    "resnet": ("resnet18", {"layers": (1, 1, 1, 1)}, 64, 5e-3),
    "mobilenetv2": ("mobilenetv2_035", {"pad_type": "same", "depth_multiplier": 0.5}, 64, 5e-3),
}


def weight_of(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def value_by_value(packed, scale, shape):
    """Slow reference of docs/FORMAT.md: value i is (code i - 8) times the scale of its block."""
    count = int(np.prod(shape))
    values = np.empty(count, np.float32)
    for index in range(count):
        byte = int(packed[index % (count // 2)])
        code = byte % 16 if index < count // 2 else byte // 16
        values[index] = np.float32(code - 8) * np.float32(scale[index * len(scale) // count])
    return values.reshape(shape)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_rounded_model_holds_what_the_stored_bytes_stand_for(shape):
    tensor = torch.from_numpy(weight_of(shape))
    stored = freeze({"layer.weight": tensor}, "int4")
    packed, scale = (stored.arrays[member] for member in stored.members("layer.weight"))
    np.testing.assert_array_equal(tensor.numpy(), value_by_value(packed, scale, shape))


@pytest.mark.parametrize(
    ("shape", "code_bytes", "scale_bytes"),
    [((768, 3072), 1179648, 147456), ((6, 64), 192, 24), ((8, 24, 1, 1), 96, 16), ((4, 1, 5, 5), 50, 8)],
)
def test_bytes_stored(shape, code_bytes, scale_bytes):
    """Two codes a byte, two bytes of scale for each block of 32 values, 24 and 25 in the last two."""
    arrays = freeze({"layer.weight": torch.from_numpy(weight_of(shape))}, "int4").arrays
    assert {name: (array.dtype, array.nbytes) for name, array in arrays.items()} == {
        "layer.weight.packed": (np.uint8, code_bytes),
        "layer.weight.block_scale": (np.float16, scale_bytes),
    }


def test_sixteen_levels_are_exact_up_to_the_scale():
    """Every code is of use, and the largest value keeps its sign whichever it is."""
    block = np.concatenate([np.arange(-8, 8), np.arange(-8, 8)]).astype(np.float32) / 64
    for values in (np.stack([block, block]), np.stack([-block, block])):
        tensor = torch.from_numpy(values.copy())
        freeze({"layer.weight": tensor}, "int4")
        np.testing.assert_array_equal(tensor.numpy(), values)


def test_blocks_of_zeros_and_of_values_too_small_for_a_scale_become_zeros():
    values = weight_of((4, 64))
    values[1], values[2] = 0, 1e-9
    tensor = torch.from_numpy(values)
    freeze({"layer.weight": tensor}, "int4")
    assert (tensor[1:3] == 0).all()
    assert tensor[0].abs().max() > 1


def test_searched_scales_err_less_than_those_that_cover_each_block():
    """Against rounding to nearest with a positive scale of max|block| / 7, on normally distributed weights."""
    values = weight_of((64, 512))
    blocks = values.reshape(-1, 32)
    scale = np.abs(blocks).max(1, keepdims=True) / 7
    plain = (np.rint(blocks / scale) * scale).reshape(values.shape)
    tensor = torch.from_numpy(values.copy())
    freeze({"layer.weight": tensor}, "int4")
    assert np.linalg.norm(tensor.numpy() - values) < 0.9 * np.linalg.norm(plain - values)


@pytest.mark.parametrize("shape", UNSUITED.values(), ids=UNSUITED)
def test_weights_that_blocks_do_not_suit_are_held_as_int8(shape):
    values = {form: torch.from_numpy(weight_of(shape)) for form in ("int4", "int8")}
    stored = {form: freeze({"layer.weight": tensor}, form) for form, tensor in values.items()}
    assert stored["int4"].formats == {"layer.weight": "int8"}
    assert stored["int4"].arrays.keys() == stored["int8"].arrays.keys()
    torch.testing.assert_close(values["int4"], values["int8"], rtol=0, atol=0)


def test_what_is_no_product_weight_stays_in_float32():
    values = {"norm.weight": torch.randn(64), "pos_embed": torch.randn(1, 5, 64), "fc.bias": torch.randn(64)}
    expected = {name: tensor.clone() for name, tensor in values.items()}
    assert set(freeze(values, "int4").formats.values()) == {"fp32"}
    for name, tensor in values.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("model", MODELS)
def test_gradients_equal_torch_on_the_rounded_model(model, tmp_path):
    """At 32 bits the device's gradients are torch's of the model whose weights `freeze` rounded."""
    name, kwargs, image_size, tolerance = MODELS[model]
    options = options_of(
        model=name, model_kwargs=kwargs, image_size=image_size, weight_format="int4", saved_bits="32",
        adapter="bias+lowrank",
    )  # fmt: skip
    adapted = adapt_and_pack(tmp_path / "model.s2a", options)
    assert "int4" in adapted.frozen.formats.values()
    engine = OnnxRuntimeEngine(Artifact(tmp_path / "model.s2a"), EngineSettings(threads=1))
    for batch in (1, 3):
        generator = torch.Generator().manual_seed(batch)
        image = torch.randn(batch, 3, *adapted.preprocessing.image_size, generator=generator)
        target = torch.softmax(torch.randn(batch, 3, generator=generator), -1) / batch
        logits = functional_call(adapted.model, adapted.adapter, (image,))
        gradients = torch.autograd.grad(soft_cross_entropy(logits, target), list(adapted.adapter.values()))
        measured = engine.training_step(image.numpy(), target.numpy())
        np.testing.assert_allclose(measured.logits, logits.detach().numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(engine.logits(image.numpy()), logits.detach().numpy(), rtol=1e-4, atol=1e-4)
        expected = np.concatenate([gradient.numpy().ravel() for gradient in gradients])
        found = np.concatenate([measured.gradients[key].ravel() for key in adapted.adapter])
        assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)
