"""Which classes have images."""

import numpy as np


def present(labels: np.ndarray) -> np.ndarray:
    """int64 (classes,): the numbers in `labels`, int (images,), none negative, each once and in order.

    What np.unique returns; but where numpy loads numpy.ma when it is needed, that does, and no plan has counted it.
    """
    return np.flatnonzero(np.bincount(labels))
