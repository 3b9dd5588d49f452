"""Ridge regression of class indicators on pooled features, in closed form, with exact leave-one-out.

Z are the features of all images, standardised by their mean and deviation, d their number, T the class indicators less
the share of each class, and lambda is added to the diagonal:

    dual      K = Z Z^T / d    P = (K + lambda I)^-1    A = P T    weight = Z^T A / d
    primal    M = Z^T Z / d    P = (M + lambda I)^-1               weight = P Z^T T / d

The intercept is not penalised: scores are Z weight + shares. The score of an image that was left out, with the
standardisation of all images, needs no second solution (Cook and Weisberg, Residuals and Influence in Regression, 1982;
the term 1/n is the intercept's):

    T_i - score_i = lambda A_i / (lambda P_ii - 1/n) = (T_i - Z_i weight) / (1 - 1/n - Z_i P Z_i^T / d)

lambda is searched downhill in a grid, by the squared error of these scores (PRESS: Allen, Technometrics 16, 1974),
which chose as well as their log loss did in our study. Where many images are kept, a sample of them is left out.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from edge_s2a.artifact.learned import Head, Measured, State
from edge_s2a.artifact.rows import pick
from edge_s2a.device.closed_form import sweep
from edge_s2a.device.closed_form.calibration import (
    best_temperature,
    expected_calibration_error,
    log_loss,
    softmax,
)
from edge_s2a.device.closed_form.form import Form
from edge_s2a.device.closed_form.sample import Sample, sample_of
from edge_s2a.device.closed_form.standard import NO_SUMS, Standard, blocks, features_of, standardise
from edge_s2a.device.closed_form.state import packed_start
from edge_s2a.errors import UserError

GRID = tuple(10 ** (half / 2) for half in range(-8, 3))  # 1e-4 to 10
# What leave-one-out chooses on most sets, and the temperature that it gives.
DEFAULT_RIDGE, DEFAULT_TEMPERATURE = GRID[6], 0.12
# A lambda is better if its error is less by more than rounding.
LEAST_GAIN = 1e-6
LEAST_LEVERAGE = 1e-9
BALANCING_POWER = 0.25


class Fit(NamedTuple):
    """What was found."""

    weight: np.ndarray  # float64 (columns, classes), of standardised features
    ridge: float
    temperature: float
    measured: Measured | None


class Solution(NamedTuple):
    """Of one lambda, with what it gives for images that are left out."""

    error: float  # squared
    ridge: float
    scores: np.ndarray  # float64 (images of the sample, classes)
    coefficients: np.ndarray  # of Ridge.weight


class Ridge(NamedTuple):
    """One of the two forms, with its matrix."""

    # lambda -> (scores of the sample, each image when it is left out, float64 (images, classes), coefficients)
    left_out: Callable[[float], tuple[np.ndarray, np.ndarray]]
    # coefficients -> weights of standardised features, float64 (columns, classes)
    weight: Callable[[np.ndarray], np.ndarray]


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


# -- the two forms -------------------------------------------------------------------------------------


def _dual(state: State, form: Form, standard: Standard, sample: Sample) -> Ridge:
    count = len(state.kept.labels)
    matrix = sweep.zeros(count, form.block_rows)
    for first, last in matrix.blocks():
        left = features_of(state.kept.codes[first:last], state, form, standard)
        for start, stop in matrix.blocks():
            if start == first:
                matrix.diagonal[first:last, : last - first] = left @ left.T / standard.features
            elif start > first:
                right = features_of(state.kept.codes[start:stop], state, form, standard)
                np.matmul(left, right.T, out=matrix.array[first:last, start:stop])
        matrix.array[first:last, last:] /= standard.features
    targets = _targets(state.kept.labels, standard.counts)

    def left_out(ridge: float) -> tuple[np.ndarray, np.ndarray]:
        sweep.invert(matrix, ridge)
        coefficients = sweep.product(matrix, targets)
        leverage = np.maximum(ridge * matrix.array.diagonal()[sample.rows] - 1 / count, LEAST_LEVERAGE)
        scores = coefficients[sample.rows]
        scores *= (-ridge / leverage)[:, None]
        scores[np.arange(len(scores)), sample.labels] += 1
        return scores, coefficients

    def weight(coefficients: np.ndarray) -> np.ndarray:
        result = np.zeros((len(standard.mean), len(standard.counts)))
        for rows, features in blocks(state, form, standard):
            result += features.T @ coefficients[rows]
        return result / standard.features

    return Ridge(left_out, weight)


def _primal(state: State, form: Form, standard: Standard, sample: Sample) -> Ridge:
    images = standard.counts.sum()
    matrix = sweep.zeros(len(standard.mean), form.block_rows)
    if state.folded is not None:
        _add_folded(matrix, state, standard)
    for _, features in blocks(state, form, standard):
        for first, last in matrix.blocks():
            products = features[:, first:last].T @ features[:, first:]
            products /= standard.features
            sweep.add_rows(matrix, first, last, products)
    targets = standard.sums.T / standard.features
    codes = pick([state.kept.codes], sample.rows)

    def left_out(ridge: float) -> tuple[np.ndarray, np.ndarray]:
        sweep.invert(matrix, ridge)
        weight = sweep.product(matrix, targets)
        scores = np.empty((len(codes), len(standard.counts)))
        shares = standard.counts / images
        for rows, features in blocks(state, form, standard, codes):
            leverage = np.einsum("ij,ji->i", features, sweep.product(matrix, features.T))
            leverage = np.maximum(1 - 1 / images - leverage / standard.features, LEAST_LEVERAGE)
            block = features @ weight
            block += shares
            # What was left out predicts y - (y - score) / leverage.
            block /= leverage[:, None]
            block[np.arange(len(block)), sample.labels[rows]] += 1 - 1 / leverage
            scores[rows] = block
        return scores, weight

    return Ridge(left_out, lambda coefficients: coefficients)


def _add_folded(matrix: sweep.SymmetricMatrix, state: State, standard: Standard) -> None:
    """Adds the products of the folded images' standardised features to the upper blocks of `matrix`."""
    folded = state.folded
    assert folded is not None
    columns, all_columns = matrix.size, folded.sums.shape[1]
    dropped = all_columns - columns
    total, images = folded.sums[:, dropped:].sum(0), len(folded.labels)
    scale = standard.scale / np.sqrt(standard.features)
    for first, last in matrix.blocks():
        begin = packed_start(dropped + first, all_columns)
        packed = folded.gram[begin : packed_start(dropped + last, all_columns)]
        rows = np.zeros((last - first, columns - first))
        for number in range(last - first):
            start = packed_start(dropped + first + number, all_columns) - begin
            rows[number, number:] = packed[start : start + columns - first - number]
            rows[number, :number] = rows[:number, number]
        del packed
        # The sum of (x - mean)(x - mean)^T.
        for number, row in enumerate(rows):
            column = first + number
            row -= standard.mean[column] * (total[first:] - images * standard.mean[first:])
            row -= total[column] * standard.mean[first:]
            row *= scale[column] * scale[first:]
        sweep.add_rows(matrix, first, last, rows)


def _targets(labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """float64 (images, classes): indicators less shares."""
    targets = np.tile(-counts / counts.sum(), (len(labels), 1))
    targets[np.arange(len(labels)), labels] += 1
    return targets


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
        solver = (_dual if form.kind == "dual" else _primal)(state, form, standard, sample)
        found = _search(solver, sample, ridge)
    except np.linalg.LinAlgError as error:
        raise UserError(NO_SUMS) from error
    weight = solver.weight(found.coefficients)
    if not len(sample.rows):
        return Fit(weight, found.ridge, default[1], None)
    outputs = found.scores
    outputs -= balance.shares
    outputs *= balance.factors
    outputs += balance.offsets
    left_out = (outputs, sample.labels, sample.balanced if balance.is_balanced else sample.weights)
    temperature = best_temperature(*left_out)
    measured = Measured(
        min(1.0, float(left_out[2] @ (outputs.argmax(1) == sample.labels))),
        log_loss(*left_out, temperature),
        expected_calibration_error(*left_out, temperature),
    )
    return Fit(weight, found.ridge, temperature, measured)


def _search(solver: Ridge, sample: Sample, ridge: float | None) -> Solution:
    """The solution at `ridge`, or else the one with the least error: from the default to smaller values of the grid as
    long as it decreases, or else to larger ones."""

    def at(value: float) -> Solution:
        scores, coefficients = solver.left_out(value)
        return Solution(_squared_error(scores, sample), value, scores, coefficients)

    if ridge is not None:
        return at(ridge)
    middle = GRID.index(DEFAULT_RIDGE)
    best = at(GRID[middle])
    for direction in (GRID[middle - 1 :: -1], GRID[middle + 1 :]):
        for value in direction:
            before = best
            best = _better(at(value), before)
            if best is before:
                break
        if best.ridge != GRID[middle]:
            break
    return best


def _squared_error(scores: np.ndarray, sample: Sample) -> float:
    """The weighted mean of |y - score|^2, y the indicator of the image's class."""
    right = scores[np.arange(len(scores)), sample.labels]
    return float(sample.weights @ (np.einsum("ij,ij->i", scores, scores) - 2 * right + 1))


def _better(tried: Solution, best: Solution) -> Solution:
    return tried if tried.error < best.error * (1 - LEAST_GAIN) else best


def _head(state: State, form: Form, standard: Standard, balance: Balance, fit: Fit) -> Head:
    """The head of weights on features as they are."""
    width = state.layout.width
    raw = fit.weight.T * standard.scale
    raw *= balance.factors[:, None]
    bias = balance.offsets - raw @ standard.mean

    def allfeatures_of(values: np.ndarray) -> np.ndarray:
        result = np.zeros((*values.shape[:-1], width), np.float32)
        result[..., width - values.shape[-1] :] = values
        return result

    return Head(
        classes=list(state.classes),
        weight=allfeatures_of(raw),
        bias=bias.astype(np.float32),
        mean=allfeatures_of(standard.mean),
        deviation=allfeatures_of(standard.deviation),
        kind=form.kind,
        groups=form.groups,
        ridge=fit.ridge,
        temperature=fit.temperature,
        images=int(standard.counts.sum()),
        measured=fit.measured,
    )
