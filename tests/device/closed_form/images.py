"""Features that stand for images, and sums over them that are computed one image at a time."""

import hashlib

import numpy as np

from edge_s2a.artifact.learned import DIGEST_BYTES, Kept
from edge_s2a.codec.features import Layout, decode, encode

TAPS = {"early:mean": 3, "middle:mean": 4, "late:mean": 5}


def layout_of(format="float16", taps=TAPS) -> Layout:
    return Layout(format, dict(taps))


def digest_of(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "little")).digest()[:DIGEST_BYTES]


def features_of(number: int, label: int, layout: Layout) -> np.ndarray:
    """float32 (width,): around the mean of class `label`, and the same whenever it is asked for."""
    rng = np.random.default_rng([number, 7])
    mean = np.random.default_rng([label, 8]).standard_normal(layout.width)
    return (5 + mean + rng.standard_normal(layout.width)).astype(np.float32)


def images_of(numbers, labels, layout: Layout) -> Kept:
    features = np.array([features_of(number, label, layout) for number, label in zip(numbers, labels, strict=True)])
    digests = np.frombuffer(b"".join(map(digest_of, numbers)), np.uint8).reshape(-1, DIGEST_BYTES)
    rows = encode(features.reshape(len(digests), layout.width).astype(np.float32), layout)
    return Kept(digests, np.array(labels, np.int64), rows)


def unpacked(gram, columns: int) -> np.ndarray:
    """float64 (columns, columns), symmetric, of its upper triangle."""
    matrix = np.zeros((columns, columns))
    matrix[np.triu_indices(columns)] = gram[0 : len(gram)]
    return matrix + np.triu(matrix, 1).T


def contents(state) -> dict[bytes, tuple[str, bytes]]:
    """digest -> (class, row of codes) of every image that is kept."""
    rows = state.kept.codes[0 : len(state.kept.codes)]
    return {
        digest.tobytes(): (state.classes[label], row.tobytes())
        for digest, label, row in zip(state.kept.digests, state.kept.labels, rows, strict=True)
    }


def totals(state, groups: int) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, int]]:
    """(sum of x x^T, sum of x by class, images by class) over all images, kept or folded, and the columns of the last
    `groups` groups; `state.folded` has these."""
    columns = state.layout.width - state.layout.first_column(groups)
    gram = np.zeros((columns, columns))
    sums = {name: np.zeros(columns) for name in state.classes}
    counts = dict.fromkeys(state.classes, 0)
    if state.folded is not None:
        gram += unpacked(state.folded.gram, columns)
        for label, name in enumerate(state.classes):
            sums[name] += state.folded.sums[label]
        for label in state.folded.labels:
            counts[state.classes[label]] += 1
    for label, row in zip(
        state.kept.labels, decode(state.kept.codes[0 : len(state.kept.codes)], state.layout, groups), strict=True
    ):
        x = row.astype(np.float64)
        gram += np.outer(x, x)
        sums[state.classes[label]] += x
        counts[state.classes[label]] += 1
    return gram, sums, counts
