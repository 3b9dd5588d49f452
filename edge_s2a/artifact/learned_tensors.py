"""What was learned as tensors, in a knowledge file or on its way from one device to another.

kept.digests, kept.labels, kept.codes                          edge_s2a.artifact.learned.Kept
folded.gram, folded.sums, folded.digests, folded.labels        Folded, where images are folded
"""

from collections.abc import Mapping

import numpy as np

from edge_s2a.artifact import tensors
from edge_s2a.artifact.json_text import parse_json
from edge_s2a.artifact.learned import DIGEST_BYTES, Folded, Kept, State
from edge_s2a.artifact.manifest import has_type
from edge_s2a.artifact.rows import Rows
from edge_s2a.codec.features import Layout, is_valid

KEPT, FOLDED = "kept.", "folded."

Expected = tuple[str, tuple[int | None, ...]]
"""dtype and shape of a tensor; None: any number of rows."""


def tensors_of(state: State) -> dict[str, Rows]:
    """What `state_of` reads, beside the names of the classes and the number of folded groups."""
    found: dict[str, Rows] = {KEPT + name: getattr(state.kept, name) for name in ("digests", "labels", "codes")}
    if state.folded is not None:
        found |= {FOLDED + name: getattr(state.folded, name) for name in ("gram", "sums", "digests", "labels")}
    return found


def expected_tensors(layout: Layout, classes: int, groups: int) -> dict[str, Expected]:
    """The tensors of a state that has folded images over the last `groups` groups of features; 0 for one that has
    none."""
    images: dict[str, Expected] = {
        "digests": ("uint8", (None, DIGEST_BYTES)),
        "labels": ("int64", (None,)),
    }
    expected = {KEPT + name: shape for name, shape in images.items()}
    expected[KEPT + "codes"] = ("uint8", (None, layout.row_bytes))
    if groups:
        columns = layout.width - layout.first_column(groups)
        expected |= {FOLDED + name: shape for name, shape in images.items()}
        expected[FOLDED + "gram"] = ("float64", (columns * (columns + 1) // 2,))
        expected[FOLDED + "sums"] = ("float64", (classes, columns))
    return expected


def require(found: Mapping[str, Rows], expected: Mapping[str, Expected]) -> None:
    """Raises ValueError unless each expected tensor is there, in its shape."""
    for name, (dtype, shape) in expected.items():
        if name not in found:
            raise ValueError(f"tensor {name} is missing")
        array = found[name]
        fits = len(array.shape) == len(shape) and all(
            size is None or size == count for size, count in zip(shape, array.shape, strict=True)
        )
        if not fits or array.dtype.name != dtype:
            raise ValueError(f"tensor {name} is {array.dtype.name} {array.shape}, expected {dtype} {shape}")


def class_names_of(text: str) -> list[str]:
    """The names of a state's classes from JSON. Raises ValueError unless they are sorted, and each is there once."""
    classes = parse_json(text)
    if not has_type(list[str], classes) or not all(classes) or classes != sorted(set(classes)) or not classes:
        raise ValueError(f"classes {str(classes)[:100]}")
    "".join(classes).encode()
    return classes


def state_of(found: Mapping[str, Rows], layout: Layout, classes: list[str], groups: int) -> State:
    """The state whose tensors these are, in the shapes of `expected_tensors`. Raises ValueError for what no images have
    left."""
    kept = _images(found, KEPT, len(classes))
    codes = found[KEPT + "codes"]
    if len(codes) != len(kept[1]):
        raise ValueError(f"{len(codes)} rows of codes for {len(kept[1])} images")
    if not all(is_valid(block, layout) for block in tensors.blocks(codes)):
        raise ValueError("codes that stand for no finite features")
    folded = None
    if groups:
        gram = found[FOLDED + "gram"]
        if not all(np.isfinite(block).all() for block in tensors.blocks(gram)):
            raise ValueError("sums that are not finite")
        folded = Folded(groups, gram, finite(found, FOLDED + "sums"), *_images(found, FOLDED, len(classes)))
    state = State(layout, list(classes), Kept(*kept, codes), folded)
    if not state.counts.all():
        raise ValueError("a class without images")
    digests = [kept[0]] + ([folded.digests] if folded else [])
    if len({digest.tobytes() for some in digests for digest in some}) != state.counts.sum():
        raise ValueError("an image twice")
    return state


def finite(found: Mapping[str, Rows], name: str) -> np.ndarray:
    """A tensor, read whole. Raises ValueError if it has values that are not finite."""
    values = whole(found[name])
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has values that are not finite")
    return values


def whole(array: Rows) -> np.ndarray:
    return array[0 : len(array)]


def _images(found: Mapping[str, Rows], group: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(digests, labels)."""
    digests, labels = whole(found[group + "digests"]), whole(found[group + "labels"])
    if len(digests) != len(labels):
        raise ValueError(f"{len(digests)} digests for {len(labels)} labels")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError("labels of no class")
    return digests, labels
