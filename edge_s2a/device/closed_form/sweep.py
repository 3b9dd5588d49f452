"""Inverts a symmetric positive definite matrix in place, next to the matrix itself, by block sweeps.

A sweep (Gauss-Jordan elimination of a block of columns at a time: Goodnight, The American Statistician 33, 1979) keeps
the matrix symmetric, so that its lower blocks suffice. The upper blocks keep the matrix as it was: it is inverted again
and again with other values on its diagonal, at the memory of one. All work is in products of blocks (BLAS).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# A ufunc may copy its operands through buffers of 8192 values each.
UFUNC_BYTES = 3 * 8192 * 8
CACHED_ROWS, FEW_COLUMNS = 64, 8


@dataclass(frozen=True)
class SymmetricMatrix:
    """A symmetric matrix in blocks of `block` rows and columns, the last ones smaller. Blocks above the diagonal and
    `diagonal` hold it; blocks below and on the diagonal of `array` are free, for its inverse."""

    array: np.ndarray  # float64 (size, size)
    diagonal: np.ndarray  # float64 (size, block): the blocks on the diagonal, one below the other
    block: int

    @property
    def size(self) -> int:
        return len(self.array)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yields first and last row of each block."""
        for first in range(0, self.size, self.block):
            yield first, min(first + self.block, self.size)


def zeros(size: int, block: int) -> SymmetricMatrix:
    return SymmetricMatrix(np.zeros((size, size)), np.zeros((size, min(block, size))), block)


def matrix_bytes(size: int, block: int) -> int:
    """Bytes of a SymmetricMatrix."""
    return 8 * size * (size + min(block, size))


def invert_bytes(size: int, block: int) -> int:
    """Bytes that `invert` takes beside the matrix, at most."""
    block = min(block, size)
    return 8 * (3 * size * block + 4 * block * block) + UFUNC_BYTES


def add_rows(matrix: SymmetricMatrix, first: int, last: int, rows: np.ndarray) -> None:
    """Adds rows float64 (last - first, size - first), of an upper triangle from its diagonal blocks on, to the block of
    rows first:last."""
    size = last - first
    matrix.diagonal[first:last, :size] += rows[:, :size]
    matrix.array[first:last, last:] += rows[:, size:]


def invert(matrix: SymmetricMatrix, added: float) -> None:
    """Writes the inverse of the matrix, with `added` on its diagonal, into its lower blocks, of which the upper ones of
    the diagonal blocks are valid, too. Raises numpy.linalg.LinAlgError if it is not
    positive definite."""
    array, size = matrix.array, matrix.size
    for first, last in matrix.blocks():
        array[first:last, :first] = array[:first, first:last].T
        array[first:last, first:last] = matrix.diagonal[first:last, : last - first]
        array[range(first, last), range(first, last)] += added
    width = min(matrix.block, size)
    columns, scaled, product = np.empty((size, width)), np.empty((size, width)), np.empty((width, size))
    for first, last in matrix.blocks():
        count = last - first
        pivot = np.linalg.inv(array[first:last, first:last])
        if not (pivot.diagonal() > 0).all():
            raise np.linalg.LinAlgError("the matrix is not positive definite")
        pivot += pivot.T.copy()
        pivot /= 2
        panel = columns[:, :count]
        panel[:first] = array[first:last, :first].T
        panel[first:last] = 0
        panel[last:] = array[last:, first:last]
        moved = np.matmul(panel, pivot, out=scaled[:, :count])
        for start, stop in matrix.blocks():
            if start != first:
                update = np.matmul(moved[start:stop], panel[:stop].T, out=product[: stop - start, :stop])
                array[start:stop, :stop] -= update
        array[first:last, :first] = moved[:first].T
        array[last:, first:last] = moved[last:]
        array[first:last, first:last] = -pivot
    for first, last in matrix.blocks():
        np.negative(array[first:last, :last], out=array[first:last, :last])


def product(matrix: SymmetricMatrix, columns: np.ndarray) -> np.ndarray:
    """The inverse times columns, float64 (size, n), of the matrix whose lower blocks `invert` wrote."""
    result = np.zeros_like(columns)
    for first, last in matrix.blocks():
        # Of few columns, the two products wait for memory: rows that stay in the cache are fetched once for both.
        step = CACHED_ROWS if columns.shape[1] < FEW_COLUMNS else matrix.block
        for start in range(first, last, step):
            stop = min(start + step, last)
            lower = matrix.array[start:stop, :stop]
            result[start:stop] += lower @ columns[:stop]
            result[:start] += lower[:, :start].T @ columns[start:stop]
    return result
