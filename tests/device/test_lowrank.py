"""The start of low-rank maps against the same steps in torch, and what it is for: it catches more of the gradient."""

import numpy as np
import pytest
import torch

from edge_s2a.artifact.archive import Artifact
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.device.engine.onnxruntime import OnnxRuntimeEngine
from edge_s2a.device.start.lowrank import right_singular_vectors, start_at_gradient
from edge_s2a.host.trace.capture import loss_and_gradients
from tests.helpers.artifacts import adapt_and_pack, options_of

IMAGES = 6


@pytest.fixture(scope="module", params=["tokens", "feature maps"])
def packed(request, tmp_path_factory):
    """(engine, adapted model, names of the maps) at 32 bits."""
    models = {
        "tokens": {},
        "feature maps": {"model": "mobilenetv2_050", "model_kwargs": {"depth_multiplier": 0.5}, "image_size": 32},
    }
    options = options_of(
        **models[request.param], adapter="bias+lowrank", saved_bits="32", weight_format="fp32", labels=None
    )
    path = tmp_path_factory.mktemp("lowrank") / "model.s2a"
    adapted = adapt_and_pack(path, options)
    artifact = Artifact(path)
    return OnnxRuntimeEngine(artifact, EngineSettings(threads=1)), adapted, artifact.manifest.low_rank_maps


def batch(size=IMAGES):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((size, 3, 32, 32)).astype(np.float32)
    return images, np.eye(3, dtype=np.float32)[np.arange(size) % 3] / size


def start(engine, maps):
    images, target = batch()

    def batches():
        yield images[:4], target[:4]
        yield images[4:], target[4:]

    start_at_gradient(engine, maps, batches, {name: np.ones_like(array) for name, array in engine.adapter.items()})


def torch_gradients(adapted, values):
    """name -> float32 gradient of the batch with the adapter's tensors at `values`."""
    images, target = (torch.from_numpy(array) for array in batch())
    adapter = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in values.items()}
    gradients = loss_and_gradients(adapted.model, adapter, images, target, adapted.scheme)[2:]
    return {name: gradient.numpy() for name, gradient in zip(adapter, gradients, strict=True)}


def initial(adapted):
    return {name: value.detach().numpy().copy() for name, value in adapted.adapter.items()}


def test_every_map_of_the_adapter_is_listed(packed):
    engine, _, maps = packed
    assert maps
    assert {f"{name}.{part}" for name in maps for part in ("down", "up")} == {
        name for name in engine.adapter if name.startswith("lowrank.")
    }


def test_the_maps_span_the_directions_that_torch_finds(packed):
    """As projections, which have no free sign or order of near equals. 1e-4: float32 gradients differ by 1e-6, and by
    35 times as much along the last direction that is kept (quotient of the singular values); measured 1e-6."""
    engine, adapted, maps = packed
    for name, value in initial(adapted).items():
        engine.adapter[name][...] = value
    start(engine, maps)

    values = initial(adapted)
    sketch = torch_gradients(adapted, values)
    for name in maps:
        values[f"{name}.up"] = np.linalg.qr(sketch[f"{name}.up"])[0]
        values[f"{name}.down"][...] = 0
    projected = torch_gradients(adapted, values)
    for name in maps:
        expected = np.linalg.svd(projected[f"{name}.down"], full_matrices=False)[2]
        measured = engine.adapter[f"{name}.down"]
        np.testing.assert_allclose(measured.T @ measured, expected.T @ expected, atol=1e-4, err_msg=name)
        np.testing.assert_array_equal(engine.adapter[f"{name}.up"], 0)


def test_the_model_computes_what_it_did(packed):
    engine, adapted, maps = packed
    images, _ = batch()
    for name, value in initial(adapted).items():
        engine.adapter[name][...] = value
    before = engine.logits(images).copy()
    start(engine, maps)
    np.testing.assert_array_equal(engine.logits(images), before)


def test_the_maps_catch_more_of_the_gradient_than_random_ones(packed):
    """The gradient of `up` is that of the full matrix, projected on the rows of `down`: its norm, over all maps,
    against that of random orthonormal rows; measured 4.2 and 2.9 times."""
    engine, adapted, maps = packed
    start(engine, maps)
    found = {name: array.copy() for name, array in engine.adapter.items()}
    random = initial(adapted)
    for name in maps:
        random[f"{name}.down"] = np.linalg.qr(random[f"{name}.down"].T)[0].T

    def caught(values):
        gradients = torch_gradients(adapted, values)
        return sum(np.linalg.norm(gradients[f"{name}.up"]) ** 2 for name in maps) ** 0.5

    assert caught(found) > 2 * caught(random)


def test_the_sign_of_singular_vectors_is_fixed():
    matrix = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    rows = right_singular_vectors(matrix)
    np.testing.assert_allclose(rows @ rows.T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(rows, right_singular_vectors(-matrix), atol=1e-6)
    assert (np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], 1) > 0).all()


def test_without_a_gradient_the_maps_stay_orthonormal():
    rows = right_singular_vectors(np.zeros((2, 5), np.float32))
    np.testing.assert_array_equal(rows @ rows.T, np.eye(2))
