"""Temperature and calibration error against references that look at one image at a time."""

import math

import numpy as np
import pytest

from edge_s2a.device.closed_form import calibration
from edge_s2a.device.closed_form.calibration import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    best_temperature,
    expected_calibration_error,
    log_loss,
    softmax,
)


def sample(count=200, classes=4, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    scores = rng.standard_normal((count, classes)) * noise
    scores[np.arange(count), labels] += 1
    weights = rng.random(count)
    return scores, labels, weights / weights.sum()


def reference_loss(scores, labels, weights, temperature):
    total = 0.0
    for row, label, weight in zip(scores.tolist(), labels, weights, strict=True):
        exponentials = [math.exp(value / temperature) for value in row]
        total -= weight * math.log(exponentials[label] / sum(exponentials))
    return total


def test_log_loss_is_that_of_single_images(monkeypatch):
    monkeypatch.setattr(calibration, "BLOCK_VALUES", 64)  # several blocks
    scores, labels, weights = sample()
    for temperature in (0.1, 1.0, 7.0):
        expected = reference_loss(scores, labels, weights, temperature)
        assert log_loss(scores, labels, weights, temperature) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scale", [0.05, 1.0, 20.0])
def test_no_other_temperature_has_less_loss(scale, monkeypatch):
    """The loss counts as if each image had, for a share 1 / (1 + images), any label."""
    monkeypatch.setattr(calibration, "BLOCK_VALUES", 64)
    scores, labels, weights = sample()
    scores = scores * scale
    found = best_temperature(scores, labels, weights)
    share = 1 / (1 + len(labels))

    def smoothed(temperature):
        by_label = [log_loss(scores, np.full(len(labels), label), weights, temperature) for label in range(4)]
        return (1 - share) * log_loss(scores, labels, weights, temperature) + share * np.mean(by_label)

    step = 1e-4  # the loss is flat at its minimum: within one step it changes by some 1e-9
    assert smoothed(found) < min(smoothed(found * (1 - step)), smoothed(found * (1 + step)))
    assert found == pytest.approx(scale * best_temperature(scores / scale, labels, weights), rel=1e-9)


def test_temperatures_stay_finite_where_every_image_is_right_or_wrong():
    scores, labels, weights = sample(noise=0.01)
    assert LOWEST_TEMPERATURE < best_temperature(scores, labels, weights) < 0.5
    assert best_temperature(scores, (labels + 1) % 4, weights) == pytest.approx(HIGHEST_TEMPERATURE, rel=1e-6)
    assert best_temperature(np.zeros((3, 2)), np.array([0, 1, 0]), np.full(3, 1 / 3)) > 0


def test_calibration_error_is_that_of_single_images():
    scores, labels, weights = sample()
    gaps = np.zeros(15)
    for row, label, weight in zip(softmax(scores / 0.4), labels, weights, strict=True):
        best = row.argmax()
        gaps[min(int(row[best] * 15), 14)] += weight * (row[best] - (best == label))
    assert expected_calibration_error(scores, labels, weights, 0.4) == pytest.approx(np.abs(gaps).sum(), rel=1e-9)


def test_labels_drawn_from_the_probabilities_are_calibrated():
    """20000 images: the error of a share in one of 15 bins is about 0.01."""
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((20_000, 5))
    labels = np.array([rng.choice(5, p=row) for row in softmax(scores / 0.7)])
    weights = np.full(len(labels), 1 / len(labels))
    assert best_temperature(scores, labels, weights) == pytest.approx(0.7, rel=0.03)
    assert expected_calibration_error(scores, labels, weights, 0.7) < 0.02
    assert expected_calibration_error(scores, labels, weights, 0.2) > 0.1


def test_probabilities_of_large_scores_are_finite():
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0], [0.0, -1e4]])), [[1, 0], [1, 0]], atol=1e-300)
