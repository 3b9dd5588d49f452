"""Reads what was learned as standardised features: less their mean, divided by their deviation, over all images."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from edge_s2a.artifact.learned import State
from edge_s2a.artifact.rows import Rows
from edge_s2a.codec.features import decode
from edge_s2a.device.closed_form.form import Form
from edge_s2a.device.closed_form.state import packed_start
from edge_s2a.errors import UserError

# A feature is constant if its variance is no more than rounding of sums of its squares.
CONSTANT = 1e-12
IMPOSSIBLE = 1e-9
NO_SUMS = "the sums that were learned are not those of any images; learn anew"


class Standard(NamedTuple):
    """Mean and deviation of the features in use, over all images."""

    mean: np.ndarray  # float64 (columns,)
    deviation: np.ndarray  # float64 (columns,); 0 for constant features
    scale: np.ndarray  # float64 (columns,): 1 / deviation, or 0
    sums: np.ndarray  # float64 (classes, columns): the sum of the standardised features of each class
    counts: np.ndarray  # int (classes,)
    features: int  # that are not constant

    @property
    def means(self) -> np.ndarray:
        """float64 (classes, columns): the mean of the standardised features of each class."""
        return self.sums / self.counts[:, None]


def standardise(state: State, form: Form) -> Standard:
    """From two passes over what is kept, and from the sums of what is folded."""
    columns = state.layout.width - state.layout.first_column(form.groups)
    classes, counts = len(state.classes), state.counts
    images = counts.sum()
    sums = np.zeros((classes, columns))
    for rows, features in blocks(state, form):
        np.add.at(sums, state.kept.labels[rows], features)
    dropped, squares = 0, np.zeros(columns)
    if state.folded is not None:
        dropped = state.folded.sums.shape[1] - columns
        sums += state.folded.sums[:, dropped:]
    mean = sums.sum(0) / images
    if state.folded is not None:
        all_columns = state.folded.sums.shape[1]
        folded_sum, folded_images = state.folded.sums[:, dropped:].sum(0), len(state.folded.labels)
        diagonal = np.array(
            [state.folded.gram[start : start + 1][0] for start in _starts(dropped, all_columns)], np.float64
        )
        squares += diagonal - mean * (2 * folded_sum - folded_images * mean)
    for _, features in blocks(state, form):
        features -= mean
        squares += np.einsum("ij,ij->j", features, features)
    variance = squares / images
    if (variance < -IMPOSSIBLE * mean**2).any():
        raise UserError(NO_SUMS)
    variance[variance <= CONSTANT * (variance + mean**2)] = 0
    deviation = np.sqrt(variance)
    scale = np.divide(1, deviation, out=np.zeros(columns), where=deviation > 0)
    sums -= counts[:, None] * mean
    sums *= scale
    return Standard(mean, deviation, scale, sums, counts, int(np.count_nonzero(deviation)))


def _starts(first: int, columns: int) -> Iterator[int]:
    """Yields where the rows from `first` on of a packed upper triangle start, which is on its diagonal."""
    for row in range(first, columns):
        yield packed_start(row, columns)


def blocks(
    state: State, form: Form, standard: Standard | None = None, codes: Rows | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (rows, features float64 (rows, columns)) of what is kept, or of `codes`, some at a time; standardised if
    asked for."""
    codes = state.kept.codes if codes is None else codes
    for start in range(0, len(codes), form.block_rows):
        rows = slice(start, min(start + form.block_rows, len(codes)))
        yield rows, features_of(codes[rows], state, form, standard)


def features_of(codes: np.ndarray, state: State, form: Form, standard: Standard | None) -> np.ndarray:
    features = decode(codes, state.layout, form.groups).astype(np.float64)
    if standard is not None:
        features -= standard.mean
        features *= standard.scale
    return features


def all_features(values: np.ndarray, width: int) -> np.ndarray:
    """float32 (..., width) of values float64 (..., columns) of the features in use, which are the last ones: 0 for the
    others."""
    result = np.zeros((*values.shape[:-1], width), np.float32)
    result[..., width - values.shape[-1] :] = values
    return result
