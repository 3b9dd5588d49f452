"""A new run's head against the nearest-class-mean classifier of the backbone's features, computed by torch."""

import numpy as np
import pytest
import torch

from edge_s2a.artifact.archive import Artifact
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.device.engine.onnxruntime import OnnxRuntimeEngine
from edge_s2a.device.start.head import (
    ADAM_RATE,
    IMAGES_PER_CLASS,
    MARGIN,
    images_for_means,
    relative_rates,
    start_at_class_means,
)
from tests.helpers.artifacts import adapt_and_pack, options_of

SIZE = 32
LABELS = np.array([0, 1, 1, 2, 0, 2, 2, 1, 2])


@pytest.fixture(scope="module", params=["vit", "two heads", "convolutional head"])
def packed(request, tmp_path_factory):
    """(engine, adapted model) at 32 bits."""
    models = {
        "vit": {"adapter": "bias+side"},
        "two heads": {"model": "deit_tiny_distilled_patch16_224"},
        "convolutional head": {"model": "mobilenetv3_small_050", "model_kwargs": {}, "image_size": SIZE},
    }
    options = options_of(**models[request.param], saved_bits="32", weight_format="fp32", labels=None)
    path = tmp_path_factory.mktemp("head") / "model.s2a"
    adapted = adapt_and_pack(path, options)
    return OnnxRuntimeEngine(Artifact(path), EngineSettings(threads=1)), adapted


def start(engine, adapted, labels, images):
    def batches():
        for first in range(0, len(labels), 4):
            yield images[first : first + 4], labels[first : first + 4]

    gradients = {name: np.ones_like(array) for name, array in engine.adapter.items()}
    heads = sorted({name.rpartition(".")[0] for name in engine.adapter if name.startswith(("head.", "head_dist."))})
    heads = heads or ["classifier"]
    return start_at_class_means(engine, heads, batches, gradients)


def images_of(count):
    return np.random.default_rng(0).standard_normal((count, 3, SIZE, SIZE)).astype(np.float32)


def features_of(adapted, images):
    """float64 (images, features) of all heads together: what multiplies their weights in the logits."""
    logits = torch.from_numpy(images)
    read = {}
    heads = [m for n, m in adapted.model.named_modules() if n in ("head", "head_dist", "classifier")]
    hooks = [head.register_forward_pre_hook(lambda m, a: read.__setitem__(m, a[0].detach())) for head in heads]
    with torch.no_grad():
        adapted.model(logits)
    for hook in hooks:
        hook.remove()
    return np.concatenate([read[head].flatten(1).double().numpy() / len(heads) for head in heads], 1)


def test_logits_are_those_of_the_nearest_class_mean(packed):
    """1e-3 of the largest logit: float32 differences of means."""
    engine, adapted = packed
    images = images_of(len(LABELS))
    assert start(engine, adapted, LABELS, images) == len(LABELS)
    features = features_of(adapted, images)
    means = np.stack([features[label == LABELS].mean(0) for label in range(3)])
    middle = means.mean(0)
    squares = ((means - middle) ** 2).sum(1)
    scale = MARGIN / squares.mean()
    expected = scale * ((features - middle) @ (means - middle).T - squares / 2)
    measured = engine.logits(images)
    np.testing.assert_allclose(measured, expected, atol=1e-3 * np.abs(expected).max())


def test_a_class_without_images_changes_nothing_for_the_others(packed):
    engine, adapted = packed
    images = images_of(len(LABELS))[LABELS != 1]
    labels = LABELS[LABELS != 1]
    start(engine, adapted, labels, images)
    features = features_of(adapted, images)
    means = np.stack([features[labels == label].mean(0) for label in (0, 2)])
    middle = means.mean(0)
    squares = ((means - middle) ** 2).sum(1)
    expected = MARGIN / squares.mean() * ((features - middle) @ (means - middle).T - squares / 2)
    measured = engine.logits(images)
    np.testing.assert_allclose(measured[:, [0, 2]], expected, atol=1e-3 * np.abs(expected).max())
    np.testing.assert_array_equal(measured[:, 1], 0)


def test_equal_images_leave_the_head_at_zero(packed):
    engine, adapted = packed
    start(engine, adapted, LABELS, images_of(1).repeat(len(LABELS), 0))
    np.testing.assert_array_equal(engine.logits(images_of(2)), 0)


def test_images_for_means_are_a_bounded_sample_of_every_class():
    labels = np.array([0] * 100 + [1] * 5 + [3] * 40)
    chosen = images_for_means(labels, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [IMAGES_PER_CLASS, 5, 0, IMAGES_PER_CLASS]
    assert len(set(chosen)) == len(chosen)
    assert (chosen == images_for_means(labels, seed=0)).all()
    assert (chosen[:IMAGES_PER_CLASS] != np.arange(IMAGES_PER_CLASS)).any()


def test_adam_trains_the_head_at_a_rate_of_its_own_or_less():
    names = ["head.weight", "head.bias", "head_dist.weight", "head_dist.bias"]
    for lr, rate in ((1e-4, 1e-4), (2e-3, ADAM_RATE), (2e-2, ADAM_RATE)):
        shares = relative_rates(["head", "head_dist"], "adamw", lr)
        assert list(shares) == names
        np.testing.assert_allclose([lr * share for share in shares.values()], rate, rtol=1e-12)
    assert set(relative_rates(["head"], "sgd", 0.1).values()) == {1.0}
