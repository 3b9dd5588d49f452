"""Frozen linear layers whose products are computed in int8."""

import numpy as np
import pytest
import torch
from torch import nn

from edge_s2a.artifact.archive import Artifact
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.device.engine.onnxruntime import OnnxRuntimeEngine
from edge_s2a.errors import UserError
from edge_s2a.host.scheme.compute import LARGEST_ERROR, choose_int8_layers, rounding_errors
from edge_s2a.host.trace.capture import loss_and_gradients
from edge_s2a.host.trace.operators.linear import compute_in_int8, int8_product, int8_product_of_gradient, linear
from edge_s2a.host.weights import freeze
from tests.helpers.artifacts import adapt_and_pack, options_of, pack
from tests.helpers.commands import assert_refused, run_host_here

VIT = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}


def codes_of_row(row):
    """Slow reference: round(value / scale) with scale = largest magnitude / 127."""
    scale = np.float32(max(abs(float(value)) for value in row)) * np.float32(1 / 127)
    return [int(np.rint(np.float32(value) / scale)) for value in row], float(scale)


def slow_product(left, right_codes):
    """(rows, n) @ (n, columns), whole numbers between the scales of rows."""
    result = np.empty((len(left), right_codes.shape[1]))
    for index, row in enumerate(left):
        codes, scale = codes_of_row(row)
        for column in range(right_codes.shape[1]):
            result[index, column] = scale * sum(
                code * int(other) for code, other in zip(codes, right_codes[:, column], strict=True)
            )
    return result


@pytest.fixture
def layer():
    """(x, gradient, weight as the model holds it, its codes, its scales)."""
    rng = np.random.default_rng(0)
    weight = torch.from_numpy(rng.standard_normal((6, 9), np.float32))
    frozen = freeze({"layer.weight": weight}, "int8")
    x, grad = (torch.from_numpy(rng.standard_normal((5, n), np.float32)) for n in (9, 6))
    return x, grad, weight, frozen.arrays["layer.weight.codes"], frozen.arrays["layer.weight.scale"]


def test_products_are_those_of_codes(layer):
    """To the rounding of float32 scales."""
    x, grad, weight, codes, scale = layer
    np.testing.assert_allclose(int8_product(x, weight), slow_product(x.numpy(), codes.T) * scale, rtol=1e-5)
    expected = slow_product(grad.numpy() * scale, codes)
    np.testing.assert_allclose(int8_product_of_gradient(grad, weight), expected, rtol=1e-5)


def test_a_row_of_zeros_gives_zeros(layer):
    _, _, weight, _, _ = layer
    assert (int8_product(torch.zeros(2, 9), weight) == 0).all()


def test_the_gradient_is_that_of_the_exact_product_in_int8(layer):
    """Straight through the rounding; a bias gets the sum of what arrives."""
    x, grad, weight, _, _ = layer
    parameter = nn.Parameter(weight, requires_grad=False)
    compute_in_int8(parameter)
    x, bias = x.requires_grad_(), torch.zeros(6, requires_grad=True)
    dx, db = torch.autograd.grad(linear(x, parameter, bias), [x, bias], grad)
    torch.testing.assert_close(dx, int8_product_of_gradient(grad, weight))
    torch.testing.assert_close(db, grad.sum(0))


@pytest.fixture(scope="module")
def packed_vit(tmp_path_factory):
    """(options, adapted model, artifact) of two blocks, in int8."""
    options = options_of(model_kwargs=VIT, compute="int8", adapter="bias+lowrank")
    path = tmp_path_factory.mktemp("int8") / "vit.s2a"
    adapted = adapt_and_pack(path, options)
    return options, adapted, path


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    return rng.standard_normal((4, 3, 64, 64), np.float32), rng.dirichlet(np.ones(3), 4).astype(np.float32) / 4


def test_the_device_computes_what_torch_does(packed_vit, batch):
    """All gradients together to 1e-4: a value at the edge of a code may take the next one, as with 4-bit codes."""
    _, adapted, path = packed_vit
    engine = OnnxRuntimeEngine(Artifact(path), EngineSettings(threads=1))
    result = engine.training_step(*batch)
    expected = loss_and_gradients(adapted.model, adapted.adapter, *map(torch.from_numpy, batch), adapted.scheme)
    assert result.loss == pytest.approx(float(expected[0].detach()), rel=1e-5)
    np.testing.assert_allclose(result.logits, expected[1].detach(), atol=1e-4)
    ours = np.concatenate([result.gradients[name].ravel() for name in adapted.adapter])
    theirs = np.concatenate([value.numpy().ravel() for value in expected[2:]])
    assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs)


def test_every_frozen_product_is_in_int8(packed_vit):
    _, adapted, path = packed_vit
    expected = [
        f"blocks.{block}.{name}" for block in (0, 1) for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    ]
    assert adapted.int8_layers == Artifact(path).manifest.int8_layers == expected


def test_the_result_of_an_image_does_not_depend_on_the_others(packed_vit, batch):
    """Bit for bit: every row has its own scale, and sums of whole numbers are exact."""
    engine = OnnxRuntimeEngine(Artifact(packed_vit[2]), EngineSettings(threads=1))
    together = engine.logits(batch[0]).copy()
    for index in range(4):
        np.testing.assert_allclose(engine.logits(batch[0][index : index + 1])[0], together[index], rtol=1e-6, atol=1e-6)


def test_auto_takes_what_is_large_and_errs_little():
    """Two layers of one size, the second with an input channel that is a thousand times the others, and a small one."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain, self.outlier, self.small = nn.Linear(768, 768), nn.Linear(768, 768), nn.Linear(768, 64)

        def forward(self, x):
            x = x.flatten(1)
            large = torch.zeros(768)
            large[0] = 1e3
            return self.plain(x) + self.outlier(x + large), self.small(x)

    torch.manual_seed(0)
    model = Model().requires_grad_(False)
    frozen = freeze({f"{name}.weight": layer.weight for name, layer in model.named_children()}, "int8")
    image = torch.randn(4, 3, 16, 16)
    errors = rounding_errors(model, dict(model.named_children()), image)
    assert errors["plain"] < errors["small"] * 2 < LARGEST_ERROR < errors["outlier"]
    assert choose_int8_layers(model, frozen, "fp32", image) == []
    assert choose_int8_layers(model, frozen, "auto", image) == ["plain"]
    assert choose_int8_layers(model, frozen, "int8", image) == ["plain", "outlier", "small"]


def test_int8_is_refused_where_there_is_nothing_to_compute(tmp_path):
    with pytest.raises(UserError, match="omit --compute"):
        pack(tmp_path / "x.s2a", model="mobilenetv2_035", model_kwargs={}, image_size=32, compute="int8")
    done = run_host_here(
        "pack", "mobilenetv2_035", "--num-classes", 3, "--image-size", 32, "--compute", "int8", "--output",
        tmp_path / "y.s2a",
    )  # fmt: skip
    assert_refused(done, 2, "--compute int8 is for linear layers")
    assert not (tmp_path / "y.s2a").exists()


def test_inspect_says_it(packed_vit):
    done = run_host_here("inspect", packed_vit[2])
    assert "8 linear layers" in done.stdout
