"""What was learned, as a sum over images: images are added, forgotten, folded into sums; states are merged.

Every function returns a new state and leaves the old one as it was. Whatever the order and the partition in which
images came, states of the same images differ in their order alone, and give the same classifier to rounding. Classes
are matched by name; a class is there as long as it has an image.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edge_s2a.artifact.learned import DIGEST_BYTES, Folded, Kept, State
from edge_s2a.artifact.rows import pick
from edge_s2a.codec.features import Layout, decode
from edge_s2a.errors import UserError

FOLD_ROWS = 64  # images decoded at once, and columns of their products
CANNOT_UNDO = "learn anew from the images, with a larger --storage, so that they are kept"


def empty(layout: Layout) -> State:
    """The state of no image."""
    codes = np.zeros((0, layout.row_bytes), np.uint8)
    return State(layout, [], Kept(np.zeros((0, DIGEST_BYTES), np.uint8), np.zeros(0, np.int64), codes), None)


# -- adding --------------------------------------------------------------------------------------------


def add(state: State, classes: Sequence[str], images: Kept) -> tuple[State, int]:
    """(the state with further images, how many of them are new). images.labels: indices into `classes`.

    An image that is known is not counted twice: its newer label counts, and it stays as old as it was. Raises UserError
    where an image that was folded has another label, because its sums cannot be taken apart.
    """
    names = sorted({*state.classes, *classes})
    state = _with_classes(state, names)
    labels = _translate(images.labels, classes, names)
    keys = digest_keys(images.digests)
    if state.folded is not None:
        places = _find(digest_keys(state.folded.digests), keys)
        known = places >= 0
        _refuse_other_labels(state.folded.labels[places[known]], labels[known])
        keys, labels, rows = keys[~known], labels[~known], np.flatnonzero(~known)
    else:
        rows = np.arange(len(keys))
    # Of an image that comes twice, the last label counts.
    _, last = np.unique(keys[::-1], return_index=True)
    last = np.sort(len(keys) - 1 - last)
    keys, labels, rows = keys[last], labels[last], rows[last]
    places = _find(digest_keys(state.kept.digests), keys)
    known = places >= 0
    kept_labels = state.kept.labels.copy()
    kept_labels[places[known]] = labels[known]
    new = rows[~known]
    kept = Kept(
        np.concatenate([state.kept.digests, images.digests[new]]),
        np.concatenate([kept_labels, labels[~known]]),
        pick(
            [state.kept.codes, images.codes],
            np.concatenate([np.arange(len(kept_labels)), len(kept_labels) + new]),
        ),
    )
    return _with_used_classes(replace(state, kept=kept)), len(new)


def merge(state: State, other: State) -> State:
    """What both have learned. An image that both know counts once: folded if it is folded in one of them; if both keep
    it, with the label of `other`.

    Raises UserError for states of other features or codes, where both have folded the same image, because it would
    count twice and the sums cannot be taken apart, and where one has folded an image that the other knows under
    another label.
    """
    if state.layout != other.layout or list(state.layout.taps) != list(other.layout.taps):
        raise UserError(
            "the two have learned from other features, or keep them in other codes; merge what was learned with the "
            "same artifact and the same --codes"
        )
    names = sorted({*state.classes, *other.classes})
    state, other = _with_classes(state, names), _with_classes(other, names)
    if other.folded is not None:
        places = _find(digest_keys(other.folded.digests), digest_keys(state.kept.digests))
        known = places >= 0
        _refuse_other_labels(other.folded.labels[places[known]], state.kept.labels[known])
        state = replace(state, kept=_chosen(state.kept, np.flatnonzero(~known)))
        state = replace(state, folded=_sum(state.folded, other.folded, state.layout))
    return add(state, names, other.kept)[0]


# -- folding -------------------------------------------------------------------------------------------


def fold(state: State, count: int, groups: int | None = None) -> State:
    """The state with `count` of the kept images folded into sums: the oldest of the classes that keep most, so that
    what is kept, from which lambda and temperature are chosen, stays balanced.

    groups: how many of the last groups of features the first folding sums up, or all; later ones keep to these.
    """
    kept = state.kept
    count = min(count, len(kept.labels))
    if count <= 0:
        return state
    order = np.arange(len(kept.labels))
    by_class = np.lexsort((-order, kept.labels))
    sizes = np.bincount(kept.labels, minlength=len(state.classes))
    newer = np.empty_like(order)  # of the same class
    newer[by_class] = order - np.repeat(np.cumsum(sizes) - sizes, sizes)
    is_folded = np.zeros(len(order), bool)
    is_folded[np.lexsort((order, -newer))[:count]] = True
    folded = _fold(state, np.flatnonzero(is_folded), groups or len(state.layout.taps))
    return replace(state, kept=_chosen(kept, np.flatnonzero(~is_folded)), folded=folded)


def fold_to(state: State, storage_bytes: int, groups: int | None = None) -> State:
    """The state with as few images folded as leave at most `storage_bytes` of codes."""
    return fold(state, len(state.kept.labels) - storage_bytes // state.layout.row_bytes, groups)


def restrict(folded: Folded, layout: Layout, groups: int) -> Folded:
    """The same sums over the features of the last `groups` groups, of which `folded` has at least as many."""
    if groups == folded.groups:
        return folded
    dropped = layout.first_column(groups) - layout.first_column(folded.groups)
    gram = folded.gram[packed_start(dropped, folded.sums.shape[1]) : len(folded.gram)]
    return replace(folded, groups=groups, gram=gram, sums=folded.sums[:, dropped:])


def packed_start(row: int, columns: int) -> int:
    """Where row `row` of an upper triangle of `columns` columns starts, if its rows lie one after the other."""
    return row * columns - row * (row - 1) // 2


def _fold(state: State, rows: np.ndarray, groups: int) -> Folded:
    """The sums of state.folded and of the kept images `rows`."""
    layout, classes = state.layout, len(state.classes)
    before = state.folded
    groups = before.groups if before else groups
    columns = layout.width - layout.first_column(groups)
    gram = before.gram[0 : len(before.gram)].copy() if before else np.zeros(columns * (columns + 1) // 2)
    sums = before.sums.copy() if before else np.zeros((classes, columns))
    codes, labels = pick([state.kept.codes], rows), state.kept.labels[rows]
    for start in range(0, len(rows), FOLD_ROWS):
        features = decode(codes[start : start + FOLD_ROWS], layout, groups).astype(np.float64)
        np.add.at(sums, labels[start : start + FOLD_ROWS], features)
        for first in range(0, columns, FOLD_ROWS):
            products = features[:, first : first + FOLD_ROWS].T @ features[:, first:]
            for number, product in enumerate(products):
                begin = packed_start(first + number, columns)
                gram[begin : begin + columns - first - number] += product[number:]
    digests = state.kept.digests[rows]
    if before:
        digests = np.concatenate([before.digests, digests])
        labels = np.concatenate([before.labels, labels])
    return Folded(groups, gram, sums, digests, labels)


def _sum(first: Folded | None, second: Folded, layout: Layout) -> Folded:
    if first is None:
        return second
    twice = int((_find(digest_keys(first.digests), digest_keys(second.digests)) >= 0).sum())
    if twice:
        raise UserError(
            f"both have folded the same {twice} images into their sums, where they would count twice; "
            "merge states that learned from other images, or learn anew with a larger --storage"
        )
    groups = min(first.groups, second.groups)
    first, second = restrict(first, layout, groups), restrict(second, layout, groups)
    return Folded(
        groups,
        first.gram[0 : len(first.gram)] + second.gram[0 : len(second.gram)],
        first.sums + second.sums,
        np.concatenate([first.digests, second.digests]),
        np.concatenate([first.labels, second.labels]),
    )


# -- forgetting and renaming ---------------------------------------------------------------------------


def forget_class(state: State, name: str) -> State:
    """The state without the images of class `name`. Raises UserError if there is no such class, or if images of it are
    folded: what they added to the sums cannot be taken out exactly."""
    label = _label_of(state, name)
    count = 0 if state.folded is None else int((state.folded.labels == label).sum())
    if count:
        raise UserError(
            f"{count} images of class {name!r} are folded into sums, and cannot be forgotten; {CANNOT_UNDO}"
        )
    return _with_used_classes(replace(state, kept=_chosen(state.kept, np.flatnonzero(state.kept.labels != label))))


def forget_image(state: State, prefix: str) -> State:
    """The state without the one image whose digest, in hexadecimal digits, begins with `prefix`. Raises UserError if
    there is none or more than one, or if it is folded."""
    wanted = prefix.lower()
    is_meant = np.array([digest.tobytes().hex().startswith(wanted) for digest in state.kept.digests], bool)
    folded = np.zeros((0, DIGEST_BYTES), np.uint8) if state.folded is None else state.folded.digests
    in_sums = sum(digest.tobytes().hex().startswith(wanted) for digest in folded)
    found = int(is_meant.sum()) + in_sums
    if found != 1:
        reason = "no image has" if not found else f"{found} images have"
        raise UserError(
            f"{reason} a digest that begins with {prefix!r}; give enough of the SHA-256 of one image's file"
        )
    if in_sums:
        raise UserError(f"image {prefix} is folded into sums, and cannot be forgotten; {CANNOT_UNDO}")
    return _with_used_classes(replace(state, kept=_chosen(state.kept, np.flatnonzero(~is_meant))))


def leave_out(state: State, digests: np.ndarray) -> tuple[State, Kept]:
    """(the state without these images, what it kept of them). digests: uint8 (images, DIGEST_BYTES); those that are not
    kept do not matter."""
    is_left_out = _find(digest_keys(digests), digest_keys(state.kept.digests)) >= 0
    rest = replace(state, kept=_chosen(state.kept, np.flatnonzero(~is_left_out)))
    return _with_used_classes(rest), _chosen(state.kept, np.flatnonzero(is_left_out))


def rename(state: State, old: str, new: str) -> State:
    """The state with class `old` under another name; if there is a class of that name already, the two become one.
    Raises UserError if there is no class `old`."""
    label = _label_of(state, old)
    names = sorted({*state.classes, new})
    state = _with_classes(state, names)
    target = names.index(new)
    label = names.index(old)
    kept = replace(state.kept, labels=np.where(state.kept.labels == label, target, state.kept.labels))
    folded = state.folded
    if folded is not None and label != target:
        sums = folded.sums.copy()
        sums[target] += sums[label]
        sums[label] = 0
        folded = replace(folded, sums=sums, labels=np.where(folded.labels == label, target, folded.labels))
    return _with_used_classes(replace(state, kept=kept, folded=folded))


# -- classes and digests -------------------------------------------------------------------------------


def _label_of(state: State, name: str) -> int:
    if name not in state.classes:
        raise UserError(f"there is no class {name!r} among {', '.join(state.classes)}; check its name")
    return state.classes.index(name)


def _translate(labels: np.ndarray, classes: Sequence[str], names: list[str]) -> np.ndarray:
    """Indices into `names` of indices into `classes`."""
    return np.array([names.index(name) for name in classes], np.int64)[labels]


def _with_classes(state: State, names: list[str]) -> State:
    """The state with classes `names`, of which some may have no image; it has no others."""
    if names == state.classes:
        return state
    kept = replace(state.kept, labels=_translate(state.kept.labels, state.classes, names))
    folded = state.folded
    if folded is not None:
        sums = np.zeros((len(names), folded.sums.shape[1]))
        sums[_translate(np.arange(len(state.classes)), state.classes, names)] = folded.sums
        folded = replace(folded, sums=sums, labels=_translate(folded.labels, state.classes, names))
    return replace(state, classes=names, kept=kept, folded=folded)


def _with_used_classes(state: State) -> State:
    """The state without classes that have no image."""
    used = np.flatnonzero(state.counts)
    if len(used) == len(state.classes):
        return state
    place = np.full(len(state.classes), -1)
    place[used] = np.arange(len(used))
    kept = replace(state.kept, labels=place[state.kept.labels])
    folded = state.folded
    if folded is not None:
        folded = replace(folded, sums=folded.sums[used], labels=place[folded.labels])
    return replace(state, classes=[state.classes[label] for label in used], kept=kept, folded=folded)


def _chosen(kept: Kept, rows: np.ndarray) -> Kept:
    return Kept(kept.digests[rows], kept.labels[rows], pick([kept.codes], rows))


def digest_keys(digests: np.ndarray) -> np.ndarray:
    """The digests as values that compare and sort. (That numpy ignores zeros at the end makes no two of them equal.)"""
    return np.ascontiguousarray(digests).view(f"S{DIGEST_BYTES}").reshape(-1)


def _find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The place of each of `wanted` in `keys`, or -1."""
    # Sorts what is looked for, which may be one image, and not the thousands among which it is.
    sought, inverse = np.unique(wanted, return_inverse=True)
    if not len(sought):
        return np.zeros(0, int)
    numbers = np.minimum(np.searchsorted(sought, keys), len(sought) - 1)
    found = np.flatnonzero(sought[numbers] == keys)
    places = np.full(len(sought), -1)
    places[numbers[found]] = found
    return places[inverse]


def _refuse_other_labels(folded: np.ndarray, wanted: np.ndarray) -> None:
    count = int((folded != wanted).sum())
    if count:
        raise UserError(
            f"{count} images that are folded into sums come under another class, and cannot be moved; rename the whole "
            f"class, or {CANNOT_UNDO}"
        )
