"""Scores of unknown images and of drift against references that look at one image at a time.

Thresholds are float32, of float64 sums: references agree to 1e-4. Rates are of 600 to 3000 images: a share of 5 % is
known to 1 or 2 points.
"""

from dataclasses import replace

import numpy as np
import pytest

from edge_s2a.artifact.learned import DRIFT_IMAGES, UNKNOWN_RATES, Kept
from edge_s2a.codec.features import Layout, decode, encode
from edge_s2a.device.closed_form.drift import drift_of
from edge_s2a.device.closed_form.form import Form
from edge_s2a.device.closed_form.solve import scores, solve
from edge_s2a.device.closed_form.state import add, empty, fold
from edge_s2a.device.closed_form.unknown import are_unknown, unknown_scores

LAYOUT = Layout("float16", {"early": 8, "late": 24})
NAMES = ["a", "b", "c"]
FORM = Form("dual", 2, 16, 0)
MEANS = 1.5 * np.random.default_rng(5).standard_normal((5, LAYOUT.width))


def sample(labels, seed, shift=0.0):
    """float32 (images, width): around the means of classes, of which 3 and 4 are never learned."""
    noise = np.random.default_rng(seed).standard_normal((len(labels), LAYOUT.width))
    return (3 + MEANS[labels] + shift + noise).astype(np.float32)


def learned(labels, seed=0):
    labels = np.array(labels)
    digests = np.random.default_rng(seed).integers(0, 256, (len(labels), 16), np.uint8)
    return add(empty(LAYOUT), NAMES, Kept(digests, labels, encode(sample(labels, seed), LAYOUT)))[0]


@pytest.fixture(scope="module")
def taught():
    """(state, head) of 40 images of each class."""
    state = learned([0, 1, 2] * 40)
    return state, solve(state, FORM)


def decoded(state):
    return decode(state.kept.codes[0 : len(state.kept.codes)], LAYOUT).astype(np.float64)


# -- unknown -------------------------------------------------------------------------------------------


def test_the_score_is_that_of_the_formula(taught):
    state, head = taught
    x, labels = decoded(state), state.kept.labels
    means = np.array([x[labels == label].mean(0) for label in range(3)])
    within = np.sqrt(((x - means[labels]) ** 2).sum(0) / (len(x) - 3))
    np.testing.assert_allclose(head.familiar.means, means, rtol=1e-5)
    np.testing.assert_allclose(head.familiar.within, within, rtol=1e-5)
    fresh = sample([0, 1, 2, 3], 1)
    (center, spread) = head.familiar.scales.T
    expected = []
    for image in fresh:
        distance = min((((image - mean) / within) ** 2).mean() for mean in means)
        highest = (image @ head.weight.T + head.bias).max()
        expected.append((-highest - center[0]) / spread[0] + (distance - center[1]) / spread[1])
    np.testing.assert_allclose(unknown_scores(head, fresh), expected, rtol=1e-3)


def test_thresholds_are_those_of_refits_without_the_image():
    """Class means and scores of what is left, deviations of all: each image in turn."""
    state = learned([0, 1, 2] * 5)
    head = solve(state, FORM)
    x, labels = decoded(state), state.kept.labels
    means = np.array([x[labels == label].mean(0) for label in range(3)])
    within = np.sqrt(((x - means[labels]) ** 2).sum(0) / (len(x) - 3))
    z = (x - x.mean(0)) / x.std(0)
    parts = []
    for number in range(len(x)):
        others = np.arange(len(x)) != number
        rows, targets = z[others], np.eye(3)[labels[others]]
        middle = rows.mean(0)
        ridge = head.ridge * LAYOUT.width * np.eye(LAYOUT.width)
        weight = np.linalg.solve((rows - middle).T @ (rows - middle) + ridge, (rows - middle).T @ targets)
        highest = ((z[number] - middle) @ weight + targets.mean(0)).max()
        left = [x[others & (labels == label)].mean(0) for label in range(3)]
        parts.append((-highest, min((((x[number] - mean) / within) ** 2).mean() for mean in left)))
    parts = np.array(parts)
    np.testing.assert_allclose(head.familiar.scales[:, 0], parts.mean(0), rtol=1e-4)
    np.testing.assert_allclose(head.familiar.scales[:, 1], parts.std(0), rtol=1e-4)
    total = ((parts - parts.mean(0)) / parts.std(0)).sum(1)
    for rate, threshold in zip(UNKNOWN_RATES, head.familiar.unknown, strict=True):
        assert (total > threshold + 1e-4).mean() <= rate
        assert (total >= threshold - 1e-4).mean() > rate


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_images_of_known_classes_are_refused_at_the_stated_rate(taught, rate):
    """0.04 more or less: the threshold is that of 120 images."""
    refused = are_unknown(taught[1], sample(np.arange(3000) % 3, 1), rate)
    assert refused.dtype == bool
    assert refused.mean() == pytest.approx(rate, abs=0.04)


def test_images_of_unknown_classes_are_refused(taught):
    refused = are_unknown(taught[1], sample(3 + np.arange(600) % 2, 1), 0.05)
    assert refused.mean() > 0.9


def test_a_larger_rate_refuses_more(taught):
    fresh = sample(np.arange(600) % 5, 1)
    counts = [are_unknown(taught[1], fresh, rate).sum() for rate in (1e-9, 0.005, 0.01, 0.04, 0.05, 0.06, 0.4, 0.5, 1)]
    assert counts == sorted(counts)
    assert len(set(counts[1:-1])) > 4
    assert counts[0] == counts[1]
    assert counts[-1] == counts[-2]


def test_without_images_to_leave_out_none_is_unknown_and_nothing_drifts(taught):
    state, before = taught
    head = solve(fold(state, 120), Form("primal", 2, 16, 0), previous=before)
    assert head.familiar is None
    assert not are_unknown(head, sample([3] * 10, 1), 0.5).any()
    assert drift_of(head, np.ones(LAYOUT.width), np.array([1, 0, 0])) is None


def test_folding_some_changes_means_and_deviations_by_rounding_alone(taught):
    state, head = taught
    folded = solve(fold(state, 60), Form("primal", 2, 16, 0), ridge=head.ridge)
    np.testing.assert_allclose(folded.familiar.means, head.familiar.means, rtol=1e-5)
    np.testing.assert_allclose(folded.familiar.within, head.familiar.within, rtol=1e-5)


def test_features_that_are_not_used_do_not_count(taught):
    state, _ = taught
    head = solve(state, Form("dual", 1, 16, 0))
    fresh = sample(np.arange(40) % 5, 1)
    other = fresh.copy()
    other[:, :8] += 100
    np.testing.assert_allclose(unknown_scores(head, other), unknown_scores(head, fresh), rtol=1e-4)
    predicted = np.bincount(scores(head, fresh).argmax(1), minlength=3)
    first, second = (drift_of(head, images.sum(0, np.float64), predicted) for images in (fresh, other))
    assert first == second


# -- drift ---------------------------------------------------------------------------------------------


def drift(head, images):
    predicted = np.bincount(scores(head, images).argmax(1), minlength=3)
    return drift_of(head, images.sum(0, np.float64), predicted)


def test_the_statistic_is_that_of_the_formula(taught):
    state, head = taught
    x, labels = decoded(state), state.kept.labels
    means = np.array([x[labels == label].mean(0) for label in range(3)])
    fresh = sample(np.arange(10) % 3, 1)
    predicted = scores(head, fresh).argmax(1)
    residual = np.mean([(image - means[label]) / x.std(0) for image, label in zip(fresh, predicted, strict=True)], 0)
    found = drift(head, fresh)
    assert found.statistic == pytest.approx((residual**2).mean(), rel=1e-4)
    assert found.images == 10
    assert found.drifted == (found.statistic > found.threshold)


def test_the_threshold_is_that_of_draws_of_left_out_images(taught):
    """Other draws than those of the head: a quantile of 1 % of 500 draws is known to some 10 %."""
    state, head = taught
    x, labels = decoded(state), state.kept.labels
    means = np.array([x[labels == label].mean(0) for label in range(3)])
    # These classes lie so far apart that each image is taken for its own.
    left = np.array([means[label] + (means[label] - image) / 39 for image, label in zip(x, labels, strict=True)])
    residuals = (x - left) / x.std(0)
    rng = np.random.default_rng(9)
    for images, threshold in zip(DRIFT_IMAGES, head.familiar.drift, strict=True):
        drawn = [residuals[rng.integers(0, len(x), images)].mean(0) for _ in range(500)]
        expected = np.quantile(np.square(drawn).mean(1), 0.99)
        assert threshold == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("images", [1, 3, 8, 50, 300])
@pytest.mark.parametrize("labels", [[0, 1, 2], [1]])
def test_images_like_those_that_were_learned_do_not_drift(taught, images, labels):
    """Of any mixture of classes. At most 5 % of draws exceed a threshold that is meant for 1 %."""
    rng = np.random.default_rng(3)
    drifted = [drift(taught[1], sample(rng.choice(labels, images), 100 + seed)).drifted for seed in range(100)]
    assert np.mean(drifted) <= 0.05


@pytest.mark.parametrize("images", [8, 50, 3000])
def test_images_of_another_kind_drift(taught, images):
    rng = np.random.default_rng(3)
    for seed in range(20):
        assert drift(taught[1], sample(rng.integers(0, 3, images), 100 + seed, shift=1.0)).drifted


def test_what_is_learned_does_not_depend_on_the_order():
    state = learned([0, 1, 2] * 20)
    order = np.random.default_rng(1).permutation(60)
    kept = Kept(state.kept.digests[order], state.kept.labels[order], state.kept.codes[0:60][order])
    first, second = solve(state, FORM), solve(replace(state, kept=kept), FORM)
    np.testing.assert_allclose(second.familiar.unknown, first.familiar.unknown, rtol=1e-5)
    np.testing.assert_allclose(second.familiar.drift, first.familiar.drift, rtol=1e-5)
