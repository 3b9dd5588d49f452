"""Solves for the classifier of what was learned: lambda, weights, temperature, and what left-out images say of it.

lambda is searched in a grid, by the squared error of the scores of images that are left out (PRESS: Allen,
Technometrics 16, 1974), which chose as well as their log loss did in our study. The error is flat where there are few
images; of values that are as good, the largest is taken. Where many images are kept, a sample of them is left out.
"""

from typing import NamedTuple

import numpy as np

from edge_s2a.artifact.learned import MOST_CONFUSED, Head, Measured, State
from edge_s2a.device.closed_form.calibration import (
    best_temperature,
    expected_calibration_error,
    log_loss,
    softmax,
)
from edge_s2a.device.closed_form.familiar import familiar_of
from edge_s2a.device.closed_form.form import Form
from edge_s2a.device.closed_form.ridge import Ridge, dual, primal
from edge_s2a.device.closed_form.sample import LeftOut, Sample, sample_of
from edge_s2a.device.closed_form.standard import NO_SUMS, Standard, all_features, standardise
from edge_s2a.errors import UserError

GRID = tuple(10 ** (half / 2) for half in range(-6, 3))  # 1e-3 to 10
# What leave-one-out chooses on most sets, and the temperature that it gives.
DEFAULT_RIDGE, DEFAULT_TEMPERATURE = GRID[4], 0.12
# An error is less than another if it is so by more than this share.
LEAST_GAIN = 0.01
BALANCING_POWER = 0.25


class Fit(NamedTuple):
    """What was found."""

    weight: np.ndarray  # float64 (columns, classes), of standardised features
    ridge: float
    temperature: float
    left_out: LeftOut | None


class Solution(NamedTuple):
    """Of one lambda, with what it gives for images that are left out."""

    error: float  # squared
    ridge: float
    outputs: np.ndarray  # float64 (images of the sample, classes)
    coefficients: np.ndarray  # of Ridge.weight


def solve(
    state: State,
    form: Form,
    *,
    class_weights: str = "none",
    ridge: float | None = None,
    previous: Head | None = None,
) -> Head:
    """The classifier of all images of `state`.

    class_weights: "balanced" makes every class count alike, however many images it has, in the scores and in what is
    measured; "none" does not. ridge: lambda; without it, the best of GRID. previous: an earlier head of the state,
    whose lambda and temperature are taken where no image is kept that could be left out.

    Raises UserError if there is no image, or if the sums are not those of any images.
    """
    if not state.classes:
        raise UserError("nothing was learned yet: there is no image; give --data with images")
    standard = standardise(state, form)
    balance = balance_of(standard.counts, class_weights)
    return _head(state, form, standard, balance, _fit(state, form, standard, balance, ridge, previous))


def scores(head: Head, features: np.ndarray) -> np.ndarray:
    """Logits, float32 (images, classes), of features float32 (images, width): their softmax are the probabilities."""
    return (features @ head.weight.T + head.bias) / np.float32(head.temperature)


def probabilities(head: Head, features: np.ndarray) -> np.ndarray:
    """float32 (images, classes) of features float32 (images, width)."""
    return softmax(scores(head, features))


class Balance(NamedTuple):
    """What becomes of the scores of the ridge problem: (score - shares) factors + offsets."""

    shares: np.ndarray  # float64 (classes,), of each class in what was learned
    factors: np.ndarray  # float64 (classes,)
    offsets: np.ndarray  # float64 (classes,)
    is_balanced: bool


def balance_of(counts: np.ndarray, class_weights: str) -> Balance:
    """counts: int (classes,), images. With "balanced", a class of share p starts as high as any other, and what speaks
    for it counts p^-1/4 times: better in our study than images with weights, than the prior taken out of the
    probabilities, and than other powers; and it needs the sums alone."""
    shares = counts / counts.sum()
    if class_weights == "none":
        return Balance(shares, np.ones(len(counts)), shares, False)
    equal = 1 / len(counts)
    return Balance(shares, (shares / equal) ** -BALANCING_POWER, np.full(len(counts), equal), True)


# -- lambda and temperature ----------------------------------------------------------------------------


def _fit(
    state: State, form: Form, standard: Standard, balance: Balance, ridge: float | None, previous: Head | None
) -> Fit:
    default = (previous.ridge, previous.temperature) if previous else (DEFAULT_RIDGE, DEFAULT_TEMPERATURE)
    if len(state.classes) == 1 or not standard.features:
        weight = np.zeros((len(standard.mean), len(state.classes)))
        return Fit(weight, ridge or default[0], default[1], None)
    sample = sample_of(state.kept, standard.counts)
    if not len(sample.rows):
        ridge = ridge or default[0]
    try:
        solver = (dual if form.kind == "dual" else primal)(state, form, standard, sample)
        found = _search(solver, sample, ridge)
    except np.linalg.LinAlgError as error:
        raise UserError(NO_SUMS) from error
    weight = solver.weight(found.coefficients)
    if not len(sample.rows):
        return Fit(weight, found.ridge, default[1], None)
    outputs = found.outputs
    outputs -= balance.shares
    outputs *= balance.factors
    outputs += balance.offsets
    left_out = LeftOut(sample.rows, sample.labels, sample.balanced if balance.is_balanced else sample.weights, outputs)
    return Fit(weight, found.ridge, best_temperature(outputs, sample.labels, left_out.weights), left_out)


def _search(solver: Ridge, sample: Sample, ridge: float | None) -> Solution:
    """The solution at `ridge`, or else, from the default on, that of the largest lambda whose error is as little as
    any."""

    def at(value: float) -> Solution:
        outputs, coefficients = solver.left_out(value)
        return Solution(_squared_error(outputs, sample), value, outputs, coefficients)

    if ridge is not None:
        return at(ridge)
    start = GRID.index(DEFAULT_RIDGE)
    best = at(DEFAULT_RIDGE)
    for value in GRID[start - 1 :: -1]:
        tried = at(value)
        if tried.error >= best.error * (1 - LEAST_GAIN):
            break
        best = tried
    if best.ridge == DEFAULT_RIDGE:
        del tried
        least = best.error
        for value in GRID[start + 1 :]:
            tried = at(value)
            least = min(least, tried.error)
            if tried.error > least * (1 + LEAST_GAIN):
                break
            best = tried
    return best


def _squared_error(outputs: np.ndarray, sample: Sample) -> float:
    """The weighted mean of |y - score|^2, y the indicator of the image's class."""
    right = outputs[np.arange(len(outputs)), sample.labels]
    return float(sample.weights @ (np.einsum("ij,ij->i", outputs, outputs) - 2 * right + 1))


def _measured(left_out: LeftOut, temperature: float, classes: int) -> Measured:
    _, labels, weights, outputs = left_out
    likeliest = outputs.argmax(1)
    confusion = None
    if classes <= MOST_CONFUSED:
        confusion = np.bincount(labels * classes + likeliest, minlength=classes**2).reshape(classes, classes).tolist()
    return Measured(
        accuracy=min(1.0, float(weights @ (likeliest == labels))),
        log_loss=log_loss(outputs, labels, weights, temperature),
        calibration_error=expected_calibration_error(outputs, labels, weights, temperature),
        confusion=confusion,
    )


def on_features(
    weight: np.ndarray, middle: np.ndarray, standard: Standard, balance: Balance, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """(weight float32 (classes, width), bias float32 (classes,)) of a head on features as they are.

    weight: float64 (columns, classes), of standardised features. middle: float64 (columns,), their mean.
    """
    balanced = weight.T * balance.factors[:, None]
    bias = balance.offsets - balanced @ middle
    balanced *= standard.scale
    bias -= balanced @ standard.mean
    return all_features(balanced, width), bias.astype(np.float32)


def _head(state: State, form: Form, standard: Standard, balance: Balance, fit: Fit) -> Head:
    width, left_out = state.layout.width, fit.left_out
    weight, bias = on_features(fit.weight, np.zeros(len(standard.mean)), standard, balance, width)
    return Head(
        classes=list(state.classes),
        counts=standard.counts,
        weight=weight,
        bias=bias,
        mean=all_features(standard.mean, width),
        deviation=all_features(standard.deviation, width),
        kind=form.kind,
        groups=form.groups,
        ridge=fit.ridge,
        temperature=fit.temperature,
        measured=left_out and _measured(left_out, fit.temperature, len(state.classes)),
        familiar=left_out and familiar_of(state, form, standard, left_out),
    )
