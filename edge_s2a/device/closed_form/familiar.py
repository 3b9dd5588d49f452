"""Describes the images that were learned, for `unknown` and `drift` to compare others with, by those left out."""

from collections.abc import Iterator

import numpy as np

from edge_s2a.artifact.learned import DRIFT_IMAGES, UNKNOWN_RATES, Familiar, State
from edge_s2a.artifact.rows import pick
from edge_s2a.device.closed_form.form import DRAWS_AT_ONCE, MOST_DRAWN, Form
from edge_s2a.device.closed_form.sample import LeftOut, balanced_choice
from edge_s2a.device.closed_form.standard import Standard, all_features, blocks

# Of the variance over all images: the least that a feature is taken to have inside the classes.
LEAST_WITHIN = 1e-2
DRAWS, DRAWN_RATE = 500, 0.01


def familiar_of(state: State, form: Form, standard: Standard, left_out: LeftOut) -> Familiar:
    """From the sums of all images, and one pass over those that are left out."""
    width, means = state.layout.width, standard.means
    images, classes = int(standard.counts.sum()), len(standard.counts)
    between = np.einsum("i,ij,ij->j", standard.counts, means, means)
    variance = np.maximum((images - between) / max(1, images - classes), LEAST_WITHIN)
    within = np.sqrt(variance) * (standard.deviation > 0)
    parts = np.stack([-left_out.outputs.max(1), _distances(state, form, standard, left_out, within)])
    center = parts @ left_out.weights
    spread = np.sqrt(np.square(parts - center[:, None]) @ left_out.weights)
    spread[spread == 0] = 1
    scores = ((parts - center[:, None]) / spread[:, None]).sum(0)
    drift = _drift_thresholds(state, form, standard, left_out)
    means *= standard.deviation
    means += standard.mean
    return Familiar(
        means=all_features(means, width),
        within=all_features(within * standard.deviation, width),
        scales=np.stack([center, spread], 1).astype(np.float32),
        unknown=_upper_quantiles(scores, left_out.weights, UNKNOWN_RATES).astype(np.float32),
        drift=drift.astype(np.float32),
    )


def _distances(state: State, form: Form, standard: Standard, left_out: LeftOut, within: np.ndarray) -> np.ndarray:
    """float64 (images,): the mean square of the features of each left-out image less the mean of the nearest class, in
    deviations inside the classes. Its own class's mean is that of the others."""
    scale = np.divide(1, within, out=np.zeros_like(within), where=within > 0)
    means = standard.means
    means *= scale
    squares = np.einsum("ij,ij->i", means, means)
    others = standard.counts / np.maximum(standard.counts - 1, 1)
    result = np.empty(len(left_out.rows))
    for rows, features in blocks(state, form, standard, pick([state.kept.codes], left_out.rows)):
        features *= scale
        distances = features @ means.T
        distances *= -2
        distances += squares
        distances += np.einsum("ij,ij->i", features, features)[:, None]
        labels = left_out.labels[rows]
        distances[np.arange(len(labels)), labels] *= others[labels] ** 2
        result[rows] = distances.min(1)
    return result / standard.features


def _drift_thresholds(state: State, form: Form, standard: Standard, left_out: LeftOut) -> np.ndarray:
    """float64 (DRIFT_IMAGES,): what DRAWN_RATE of draws of so many left-out images exceed, of the mean square of their
    mean residual. The residual of an image is what it differs by from the mean of the class that it is taken for."""
    chosen = balanced_choice(state.kept.digests[left_out.rows], left_out.labels, MOST_DRAWN)
    labels, likeliest = left_out.labels[chosen], left_out.outputs[chosen].argmax(1)
    shares = left_out.weights[chosen] / left_out.weights[chosen].sum()
    count = standard.counts[labels]
    scale = np.where(likeliest == labels, count / np.maximum(count - 1, 1), 1)[:, None]
    codes = pick([state.kept.codes], left_out.rows[chosen])

    def residuals() -> Iterator[tuple[slice, np.ndarray]]:
        for rows, features in blocks(state, form, standard, codes):
            for label, residual in zip(likeliest[rows], features, strict=True):
                residual -= standard.means[label]
            features *= scale[rows]
            yield rows, features

    gram = np.empty((len(chosen), len(chosen)))
    for rows, left in residuals():
        for others, right in residuals():
            np.matmul(left, right.T, out=gram[rows, others])
    gram /= standard.features
    rng = np.random.default_rng(0)
    thresholds = []
    for images in DRIFT_IMAGES:
        statistics = np.empty(DRAWS)
        for start in range(0, DRAWS, DRAWS_AT_ONCE):
            drawn = rng.multinomial(images, shares, DRAWS_AT_ONCE) / images
            statistics[start : start + DRAWS_AT_ONCE] = np.einsum("ij,ij->i", drawn @ gram, drawn)
        thresholds.append(np.quantile(statistics, 1 - DRAWN_RATE))
    return np.array(thresholds)


def _upper_quantiles(values: np.ndarray, weights: np.ndarray, rates: tuple[float, ...]) -> np.ndarray:
    """For each rate, the least value that no more than this share of the weights exceeds."""
    order = np.argsort(-values)
    exceeded = np.cumsum(weights[order]) - weights[order]  # the weight of larger values
    places = np.searchsorted(exceeded, np.array(rates) + 1e-12, side="right") - 1
    return values[order][places]
