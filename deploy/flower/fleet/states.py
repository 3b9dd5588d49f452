"""What a device has learned in one pass, as it travels: features or sums; and what of it is believed.

features   a row of 8-bit codes for each image (edge_s2a.codec.features)
sums       instead of the rows, what the classifier is solved from: the sum of the features over each class, and the
           Gram matrix X^T X of all features X. It travels as its upper triangle, or, of few images, as the triangular
           factor R of X = QR (Golub and Van Loan, Matrix Computations, 5.2), which is smaller and has the same
           products: R^T R = X^T X.

Either comes with the digests of the images, so that none counts twice, and their classes.
"""

import hashlib
import json
from collections.abc import Mapping

import numpy as np

from edge_s2a.artifact import tensors
from edge_s2a.artifact.learned import DIGEST_BYTES, Folded, State
from edge_s2a.artifact.learned_tensors import (
    FOLDED,
    class_names_of,
    expected_tensors,
    require,
    state_of,
    tensors_of,
    whole,
)
from edge_s2a.artifact.manifest import Manifest
from edge_s2a.artifact.rows import Rows
from edge_s2a.codec.features import Layout, decode
from edge_s2a.codec.reference import LARGEST_HALF
from edge_s2a.device.closed_form import state as states
from edge_s2a.errors import UserError

CODES = "int8"  # half of what float16 takes, and as good
FEATURES, SUMS, AUTO = "features", "sums", "auto"
GRAM, FACTOR = FOLDED + "gram", FOLDED + "factor"
LABEL_BYTES = 8
BLOCK_ROWS, FACTORED_ROWS = 64, 256
# Of the features scaled to a root mean square of one: far above rounding of sums of float64, and far below what a
# direction of the features matters.
ROUNDING = 1e-9
LARGEST_FEATURE = 3 * LARGEST_HALF  # that codes stand for: a minimum, and all steps above it


def layout_of(manifest: Manifest) -> Layout:
    """How features are kept in a fleet."""
    return Layout(CODES, dict(manifest.taps))


def learning_digest(manifest: Manifest) -> str:
    """What two artifacts must share for what they learn to be added up: the model (`model_digest`), how it takes
    images, and the features that it gives."""
    text = json.dumps([manifest.model_digest, vars(manifest.preprocessing), list(manifest.taps.items())])
    return hashlib.sha256(text.encode()).hexdigest()


# -- sending -------------------------------------------------------------------------------------------


def choice(send: str, images: int, classes: int, layout: Layout) -> str:
    """FEATURES or SUMS: what `send` says, or for AUTO the smaller of the two."""
    if send != AUTO:
        return send
    return min((FEATURES, SUMS), key=lambda kind: packed_bytes(kind, images, classes, layout))


def packed_bytes(kind: str, images: int, classes: int, layout: Layout) -> int:
    """Bytes of the arrays that `pack` makes one of."""
    known = images * (DIGEST_BYTES + LABEL_BYTES)
    if kind == FEATURES:
        return known + images * layout.row_bytes
    rows = images if is_factored(images, layout) else layout.width
    return known + 8 * (rows * layout.width - rows * (rows - 1) // 2 + classes * layout.width)


def is_factored(images: int, layout: Layout) -> bool:
    """Whether the Gram matrix of so many images travels as its factor. Of more images that would save less than a
    quarter of the bytes, and factoring would take more memory than the matrix."""
    return images <= layout.width // 2


def pack(state: State, kind: str) -> np.ndarray:
    """uint8 (bytes,): a safetensors buffer of a state that keeps all of its images. kind: FEATURES or SUMS."""
    images = len(state.kept.labels)
    assert state.folded is None, "a device keeps what it learns until it is sent"
    found = tensors_of(state)
    if kind == SUMS and is_factored(images, state.layout):
        found = _factored(state)
    elif kind == SUMS:
        found = tensors_of(states.fold(state, images))
    arrays = {name: np.ascontiguousarray(whole(rows)) for name, rows in found.items()}
    return np.frombuffer(tensors.encode(arrays, {"classes": json.dumps(state.classes)}), np.uint8)


def _factored(state: State) -> dict[str, Rows]:
    """The tensors of the state with all images folded, their Gram matrix as a factor: float64, the rows of the upper
    trapezoid of R one after the other."""
    features = decode(whole(state.kept.codes), state.layout).astype(np.float64)
    sums = np.zeros((len(state.classes), state.layout.width))
    np.add.at(sums, state.kept.labels, features)
    factor = np.linalg.qr(features, mode="r")
    nothing_kept = tensors_of(states.empty(state.layout))
    return nothing_kept | {
        FACTOR: np.concatenate([row[number:] for number, row in enumerate(factor)]),
        FOLDED + "sums": sums,
        FOLDED + "digests": state.kept.digests,
        FOLDED + "labels": state.kept.labels,
    }


# -- receiving -----------------------------------------------------------------------------------------


def unpack(data: np.ndarray, manifest: Manifest) -> State:
    """The state that `pack` made this of. Raises UserError for what no images of this artifact have left."""
    layout = layout_of(manifest)
    try:
        if data.dtype != np.uint8 or data.ndim != 1:
            raise ValueError(f"{data.dtype} {data.shape}")
        arrived, metadata = tensors.decode(data, "what arrived")
        found: dict[str, Rows] = {**arrived}
        classes = class_names_of(metadata["classes"])
        groups = len(layout.taps) if any(name.startswith(FOLDED) for name in found) else 0
        if FACTOR in found:
            found = _with_gram(found, layout)
        expected = expected_tensors(layout, len(classes), groups)
        if set(found) != set(expected):
            raise ValueError(f"tensors {sorted(set(found) ^ set(expected))} missing or unknown")
        require(found, expected)
        state = state_of(found, layout, classes, groups)
        if state.folded is not None:
            require_sums_of_images(state.folded)
        return state
    except (ValueError, KeyError, UserError) as error:
        raise UserError(
            f"what it learned is malformed ({error}); install the server's version of edge-s2a on this device"
        ) from error


def _with_gram(found: Mapping[str, Rows], layout: Layout) -> dict[str, Rows]:
    """The tensors with the Gram matrix in the place of its factor. Raises ValueError for what is no factor."""
    packed = whole(found[FACTOR])
    images, width = len(found.get(FOLDED + "labels", ())), layout.width
    if not 0 < images < width:
        raise ValueError(f"a factor of {images} images")
    require(found, {FACTOR: ("float64", (images * width - images * (images - 1) // 2,))})
    if not np.isfinite(packed).all():
        raise ValueError("a factor that is not finite")
    factor = np.zeros((images, width))
    for row in range(images):
        start = states.packed_start(row, width)
        factor[row, row:] = packed[start : start + width - row]
    gram = np.empty(width * (width + 1) // 2)
    for first in range(0, width, BLOCK_ROWS):
        products = factor[:, first : first + BLOCK_ROWS].T @ factor[:, first:]
        for number, product in enumerate(products):
            start = states.packed_start(first + number, width)
            gram[start : start + width - first - number] = product[number:]
    return {GRAM: gram} | {name: rows for name, rows in found.items() if name != FACTOR}


def require_sums_of_images(folded: Folded) -> None:
    """Raises ValueError unless there could be images that have these sums: inside the classes, features vary by zero or
    more in every direction. What breaks this rule could keep the server from solving for anything.

    The scatter inside the classes, X^T X less the sum over the classes of s s^T / n, is positive semidefinite for any
    images; it is tried by a Cholesky factorisation.
    """
    columns, gram = folded.sums.shape[1], whole(folded.gram)
    counts = np.bincount(folded.labels, minlength=len(folded.sums))
    if folded.sums[counts == 0].any():
        raise ValueError("sums of a class without images")
    scatter = np.zeros((columns, columns))
    for row in range(columns):
        start = states.packed_start(row, columns)
        scatter[row, row:] = gram[start : start + columns - row]
    diagonal = scatter.diagonal().copy()
    never = diagonal == 0  # features that are zero in every image
    most = counts.sum() * LARGEST_FEATURE
    if np.abs(folded.sums).max() > most or diagonal.max() > most * LARGEST_FEATURE:
        raise ValueError("sums of features beyond what their codes hold")
    if (diagonal < 0).any() or scatter[never].any() or scatter[:, never].any():
        raise ValueError("sums of squares below zero")
    scale = 1 / np.sqrt(np.where(never, 1, diagonal))
    means = folded.sums * scale / np.sqrt(np.maximum(counts, 1))[:, None]
    for first in range(0, columns, BLOCK_ROWS):
        block = scatter[first : first + BLOCK_ROWS]
        block *= scale
        block *= scale[first : first + BLOCK_ROWS, None]
        block -= means[:, first : first + BLOCK_ROWS].T @ means
    scatter[np.diag_indices(columns)] += ROUNDING
    if not _is_positive_definite(scatter):
        raise ValueError("sums that are not those of any images")


def _is_positive_definite(matrix: np.ndarray) -> bool:
    """Whether a symmetric matrix, float64, is positive definite; reads its upper triangle, and leaves another one.

    A Cholesky factorisation by blocks, in place: numpy's would take the memory of two more matrices.
    """
    size = len(matrix)
    for first in range(0, size, FACTORED_ROWS):
        last = min(first + FACTORED_ROWS, size)
        try:
            lower = np.linalg.cholesky(matrix[first:last, first:last].T)  # of which it reads the lower triangle
        except np.linalg.LinAlgError:
            return False
        panel = np.linalg.solve(lower, matrix[first:last, last:])
        for start in range(last, size, FACTORED_ROWS):
            left = panel[:, start - last : start - last + FACTORED_ROWS]
            matrix[start : start + FACTORED_ROWS, start:] -= left.T @ panel[:, start - last :]
    return True


# -- the classifier ------------------------------------------------------------------------------------


def head_of(values: np.ndarray, classes: int, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """(weight float32 (classes, features), bias float32 (classes,)) from what the server sends of a classifier, one
    array float32 (classes, features + 1). Raises UserError unless it fits, and is finite."""
    shape = (classes, manifest.tap_count + 1)
    if values.dtype != np.float32 or values.shape != shape or not np.isfinite(values).all():
        raise UserError(
            f"the server's classifier is {values.dtype} {values.shape}, expected finite float32 {shape}; install the "
            "server's version of edge-s2a on this device"
        )
    return values[:, :-1], values[:, -1]
