"""Batches, halving, accumulation, evaluation and the start of a head, on an engine that is twenty lines of numpy: the
protocol is all that they know of an engine."""

import itertools

import numpy as np
import pytest

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.data.collate import Collator
from edge_s2a.device.data.dataset import Dataset
from edge_s2a.device.engine.base import count_images, part_of
from edge_s2a.device.engine.batches import halves, logits_of, sum_gradients, training_steps
from edge_s2a.device.evaluate import evaluate, score
from edge_s2a.device.memory.budget import MemoryPlan
from edge_s2a.device.optim.accumulate import accumulate, smoothed_target
from edge_s2a.device.optim.optimizer import OPTIMIZERS
from edge_s2a.device.runtime import Runtime
from edge_s2a.device.start.head import start_at_class_means
from edge_s2a.errors import ArenaExhausted
from tests.device.linear_engine import LinearEngine

CLASSES, SIZE, SHAPE = 3, 4, [3, 4, 4]
PREPROCESSING = Preprocessing((SIZE, SIZE), (SIZE, SIZE), "squash", "nearest", (0.5,) * 3, (0.5,) * 3)


def random_batch(count):
    rng = np.random.default_rng(count)
    labels = rng.integers(0, CLASSES, count)
    return rng.standard_normal((count, *SHAPE), np.float32), smoothed_target(labels, CLASSES, 0.1, count)


def tinted(count):
    """(pixels uint8 (count, 4, 4, 3), labels), each image in the colour of its class."""
    labels = np.arange(count) % CLASSES
    pixels = np.random.default_rng(0).integers(0, 60, (count, SIZE, SIZE, 3), np.uint8)
    pixels[np.arange(count), :, :, labels] += 150
    return pixels, labels


def runtime_of(engine, micro_batch):
    """As `load` makes one, with an engine of ours."""
    batch = np.zeros((micro_batch, *SHAPE), np.float32)
    plan = MemoryPlan(0, 8, micro_batch, 0, 0, False, {}, 0)
    return Runtime(None, engine, plan, Collator(engine, batch, PREPROCESSING, 1 << 30))


# -- slices --------------------------------------------------------------------------------------------


def test_a_part_of_features_has_the_rows_of_its_images():
    features = {"a": np.arange(12).reshape(12, 1), "b": np.arange(4).reshape(4, 1)}
    shapes = {"a": [3, 1], "b": [1, 1]}
    assert count_images(features, shapes) == 4
    part = part_of(features, 1, 3, shapes)
    assert part["a"].ravel().tolist() == [3, 4, 5, 6, 7, 8]
    assert part["b"].ravel().tolist() == [1, 2]
    assert part["a"].base is features["a"].base


@pytest.mark.parametrize("count", [2, 3, 8, 9])
def test_halves_cover_a_batch_once(count):
    assert [index for start, end in halves(count) for index in range(start, end)] == list(range(count))


# -- halving -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_features", [False, True])
@pytest.mark.parametrize("most_images", [1, 2, 3, 7])
def test_a_batch_that_does_not_fit_is_halved_and_gives_the_same(most_images, with_features):
    whole = LinearEngine(CLASSES, SHAPE, with_features)
    small = LinearEngine(CLASSES, SHAPE, with_features, most_images)
    image, target = random_batch(7)
    inputs = whole.features(image) if with_features else image
    expected = whole.training_step(inputs, target)

    results = list(training_steps(small, inputs, target))
    assert sum(small.runs) == 7
    assert max(small.runs) <= most_images
    assert sum(result.loss for result, _ in results) == pytest.approx(expected.loss, rel=1e-5)
    np.testing.assert_array_equal(np.concatenate([part for _, part in results]), target)
    np.testing.assert_allclose(np.concatenate([result.logits for result, _ in results]), expected.logits, rtol=1e-5)
    np.testing.assert_allclose(logits_of(small, inputs), expected.logits, rtol=1e-5)

    gradients = {name: np.ones_like(array) for name, array in small.adapter.items()}
    sum_gradients(small, [(inputs, target)], gradients, ["head.weight"])
    np.testing.assert_allclose(gradients["head.weight"], expected.gradients["head.weight"], rtol=1e-4, atol=1e-6)
    assert (gradients["head.bias"] == 1).all()  # was not asked for


def test_one_image_that_does_not_fit_is_an_error():
    engine = LinearEngine(CLASSES, SHAPE, most_images=0)
    image, target = random_batch(4)
    with pytest.raises(ArenaExhausted):
        list(training_steps(engine, image, target))
    with pytest.raises(ArenaExhausted):
        logits_of(engine, image)


# -- what is built on it -------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
@pytest.mark.parametrize("count", [8, 5])
def test_the_gradient_does_not_depend_on_micro_batches(micro_batch, count):
    """Nor on a batch that is smaller than the nominal one."""
    pixels, labels = tinted(count)
    engine = LinearEngine(CLASSES, SHAPE)
    runtime = runtime_of(engine, micro_batch)
    gradients = {name: np.ones_like(array) for name, array in engine.adapter.items()}
    images = iter(zip(labels.tolist(), pixels, strict=True))
    result = accumulate(runtime.collator, itertools.islice(images, 8), gradients, 8, 0.1)

    image = np.ascontiguousarray(((pixels / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2), np.float32)
    expected = LinearEngine(CLASSES, SHAPE).training_step(image, smoothed_target(labels, CLASSES, 0.1, count))
    assert result.images == count
    assert result.is_finite
    assert result.loss == pytest.approx(expected.loss, rel=1e-5)
    assert result.correct == (expected.logits.argmax(-1) == labels).sum()
    norm = np.sqrt(sum(np.square(array).sum() for array in expected.gradients.values()))
    assert result.gradient_norm == pytest.approx(norm, rel=1e-5)
    for name, array in expected.gradients.items():
        np.testing.assert_allclose(gradients[name], array, rtol=1e-4, atol=1e-5)


def test_no_images_give_no_result():
    engine = LinearEngine(CLASSES, SHAPE)
    gradients = {name: np.ones_like(array) for name, array in engine.adapter.items()}
    assert accumulate(runtime_of(engine, 2).collator, iter([]), gradients, 8, 0.1).images == 0


@pytest.mark.parametrize("most_images", [1, 1 << 30])
def test_evaluation_counts_every_image_of_a_dataset_once(tmp_path, most_images):
    pixels, labels = tinted(11)
    engine = LinearEngine(CLASSES, SHAPE, most_images=most_images)
    runtime = runtime_of(engine, 4)
    dataset = Dataset(tmp_path, ["r", "g", "b"], labels, np.arange(11), arrays=pixels)
    result = evaluate(runtime.logits, runtime.collator, dataset)

    image = np.ascontiguousarray(((pixels / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2), np.float32)
    right, loss = score(LinearEngine(CLASSES, SHAPE).logits(image), labels)
    assert result["count"] == 11
    assert result["accuracy"] == right / 11
    assert result["loss"] == pytest.approx(loss / 11, rel=1e-5)


@pytest.mark.parametrize("with_features", [False, True])
def test_a_head_that_starts_at_class_means_is_the_nearest_mean_classifier(with_features):
    pixels, labels = tinted(12)
    image = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / 255
    engine = LinearEngine(CLASSES, SHAPE, with_features)
    gradients = {name: np.zeros_like(array) for name, array in engine.adapter.items()}
    parts = [slice(0, 5), slice(5, 12)]
    assert start_at_class_means(engine, ["head"], lambda: ((image[p], labels[p]) for p in parts), gradients) == 12

    other = np.random.default_rng(5).random((40, *SHAPE), np.float32)
    means = np.stack([image[labels == label].mean(0) for label in range(CLASSES)])
    distances = np.square(other[:, None] - means).sum((2, 3, 4))
    np.testing.assert_array_equal(engine.logits(other).argmax(-1), distances.argmin(-1))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_training_step_is_accumulation_and_an_update(kind):
    pixels, labels = tinted(24)
    engine = LinearEngine(CLASSES, SHAPE, most_images=2)
    runtime = runtime_of(engine, 4)
    gradients = {name: np.zeros_like(array) for name, array in engine.adapter.items()}
    optimizer = OPTIMIZERS[kind](engine.adapter, 0.01)
    losses = []
    for _ in range(30):
        images = iter(zip(labels.tolist(), pixels, strict=True))
        losses.append(accumulate(runtime.collator, images, gradients, 24, 0.0).loss)
        optimizer.step(gradients, 0.02)
    assert losses[-1] < 0.2 * losses[0]
    assert (
        accumulate(runtime.collator, iter(zip(labels.tolist(), pixels, strict=True)), gradients, 24, 0.0).correct == 24
    )
