"""Block sweeps against numpy's inverse: to 1e-9 of the largest entry, for condition numbers up to 1e6."""

import tracemalloc

import numpy as np
import pytest

from edge_s2a.device.closed_form.sweep import UFUNC_BYTES, add_rows, invert, invert_bytes, matrix_bytes, product, zeros


def random_gram(size, samples=None, seed=0):
    factor = np.random.default_rng(seed).standard_normal((size, samples or 2 * size))
    return factor @ factor.T / factor.shape[1]


def filled(gram, block):
    matrix = zeros(len(gram), block)
    for first, last in matrix.blocks():
        add_rows(matrix, first, last, gram[first:last, first:])
    return matrix


@pytest.mark.parametrize(("size", "block"), [(1, 1), (1, 8), (7, 1), (7, 3), (8, 4), (9, 4), (40, 64), (61, 16)])
@pytest.mark.parametrize("added", [1e-4, 1.0])
def test_lower_blocks_become_the_inverse_and_the_others_stay(size, block, added):
    gram = random_gram(size, max(1, size // 2))  # singular without what is added
    matrix = filled(gram, block)
    expected = np.linalg.inv(gram + added * np.eye(size))
    for _ in range(2):
        invert(matrix, added)
        np.testing.assert_allclose(np.tril(matrix.array), np.tril(expected), rtol=0, atol=1e-9 * np.abs(expected).max())
    for first, last in matrix.blocks():
        np.testing.assert_array_equal(matrix.array[first:last, last:], gram[first:last, last:])
        np.testing.assert_array_equal(matrix.diagonal[first:last, : last - first], gram[first:last, first:last])


@pytest.mark.parametrize("block", [1, 5, 16, 64])
def test_the_inverse_times_columns(block):
    gram, columns = random_gram(33), np.random.default_rng(1).standard_normal((33, 4))
    matrix = filled(gram, block)
    invert(matrix, 0.01)
    expected = np.linalg.solve(gram + 0.01 * np.eye(33), columns)
    np.testing.assert_allclose(product(matrix, columns), expected, rtol=0, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize(("size", "block"), [(600, 32), (600, 200)])
def test_memory_is_what_it_says(size, block):
    gram = random_gram(size)
    tracemalloc.start()
    matrix = filled(gram, block)
    taken = tracemalloc.get_traced_memory()[0]
    invert(matrix, 0.1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.9 * matrix_bytes(size, block) <= taken <= matrix_bytes(size, block) + 10_000
    limit = matrix_bytes(size, block) + invert_bytes(size, block)
    assert 0.8 * (limit - UFUNC_BYTES) <= peak <= limit


def test_a_matrix_that_is_not_positive_definite_is_refused():
    gram = random_gram(12)
    gram[3, 7] = gram[7, 3] = 5
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        invert(filled(gram, 4), 0.1)
