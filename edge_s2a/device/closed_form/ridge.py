"""Ridge regression of class indicators on pooled features, in closed form, with exact leave-one-out.

Z are the features of all images, standardised by their mean and deviation, d their number, T the class indicators less
the share of each class, and lambda is added to the diagonal:

    dual      K = Z Z^T / d    P = (K + lambda I)^-1    A = P T    weight = Z^T A / d
    primal    M = Z^T Z / d    P = (M + lambda I)^-1               weight = P Z^T T / d

The intercept is not penalised: scores are Z weight + shares. The score of an image that was left out, with the
standardisation of all images, needs no second solution (Cook and Weisberg, Residuals and Influence in Regression, 1982;
the term 1/n is the intercept's):

    T_i - score_i = lambda A_i / (lambda P_ii - 1/n) = (T_i - Z_i weight) / (1 - 1/n - Z_i P Z_i^T / d)
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from edge_s2a.artifact.learned import State
from edge_s2a.artifact.rows import pick
from edge_s2a.device.closed_form import sweep
from edge_s2a.device.closed_form.form import Form
from edge_s2a.device.closed_form.sample import Sample
from edge_s2a.device.closed_form.standard import Standard, blocks, features_of
from edge_s2a.device.closed_form.state import packed_start

LEAST_LEVERAGE = 1e-9


class Ridge(NamedTuple):
    """One of the two forms, with its matrix."""

    # lambda -> (scores of the sample, each image when it is left out, float64 (images, classes), coefficients)
    left_out: Callable[[float], tuple[np.ndarray, np.ndarray]]
    # coefficients -> weights of standardised features, float64 (columns, classes)
    weight: Callable[[np.ndarray], np.ndarray]
    # (the last lambda, columns float64 (columns, n)) -> (M + lambda I)^-1 times these, in the dual form by
    # (M + lambda I)^-1 = (I - Z^T P Z / d) / lambda (Woodbury)
    inverse: Callable[[float, np.ndarray], np.ndarray]


def dual(state: State, form: Form, standard: Standard, sample: Sample) -> Ridge:
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
        outputs = coefficients[sample.rows]
        outputs *= (-ridge / leverage)[:, None]
        outputs[np.arange(len(outputs)), sample.labels] += 1
        return outputs, coefficients

    def weight(coefficients: np.ndarray) -> np.ndarray:
        result = np.zeros((len(standard.mean), coefficients.shape[1]))
        for rows, features in blocks(state, form, standard):
            result += features.T @ coefficients[rows]
        return result / standard.features

    def inverse(ridge: float, columns: np.ndarray) -> np.ndarray:
        products = np.concatenate([features @ columns for _, features in blocks(state, form, standard)])
        return (columns - weight(sweep.product(matrix, products))) / ridge

    return Ridge(left_out, weight, inverse)


def primal(state: State, form: Form, standard: Standard, sample: Sample) -> Ridge:
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
        outputs = np.empty((len(codes), len(standard.counts)))
        shares = standard.counts / images
        for rows, features in blocks(state, form, standard, codes):
            leverage = np.einsum("ij,ji->i", features, sweep.product(matrix, features.T))
            leverage = np.maximum(1 - 1 / images - leverage / standard.features, LEAST_LEVERAGE)
            block = features @ weight
            block += shares
            # What was left out predicts y - (y - score) / leverage.
            block /= leverage[:, None]
            block[np.arange(len(block)), sample.labels[rows]] += 1 - 1 / leverage
            outputs[rows] = block
        return outputs, weight

    return Ridge(
        left_out,
        weight=lambda coefficients: coefficients,
        inverse=lambda ridge, columns: sweep.product(matrix, columns),
    )


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
