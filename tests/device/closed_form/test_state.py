"""What was learned is a sum over images: in any order, in any partition, kept or folded.

Sums over kept and folded images together are compared with sums over single images, to 1e-12 of the largest: float64,
and some hundred terms.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_s2a.device.closed_form.state import (
    add,
    empty,
    fold,
    fold_to,
    forget_class,
    forget_image,
    merge,
    rename,
    restrict,
)
from edge_s2a.errors import UserError
from tests.device.closed_form.images import contents, digest_of, images_of, layout_of, totals, unpacked

LAYOUT = layout_of()
NAMES = ["cat", "dog", "bee"]


def learned(numbers, labels, layout=LAYOUT, names=NAMES):
    return add(empty(layout), names, images_of(numbers, labels, layout))[0]


def assert_same_sums(state, images, layout=LAYOUT, groups=3):
    """`state` is that of `images`, {number: label}, whether they are kept or folded."""
    expected = totals(learned(list(images), list(images.values()), layout), groups)
    measured = totals(state, groups)
    scale = np.abs(expected[0]).max()
    np.testing.assert_allclose(measured[0], expected[0], rtol=0, atol=1e-12 * scale)
    assert list(measured[1]) == list(expected[1])
    for name, total in expected[1].items():
        np.testing.assert_allclose(measured[1][name], total, rtol=0, atol=1e-12 * scale)
    assert measured[2] == expected[2]


LABELS = st.lists(st.integers(0, 2), min_size=1, max_size=24)


@settings(max_examples=60, deadline=None)
@given(labels=LABELS, data=st.data())
def test_any_order_partition_and_folding_sums_up_the_same_images(labels, data):
    images = dict(enumerate(labels))
    states = [empty(LAYOUT)]
    for number in data.draw(st.permutations(list(images)), "order"):
        step = data.draw(st.sampled_from(["add", "add", "twice", "fold", "new device"]), "step")
        if step == "new device":
            states.append(empty(LAYOUT))
        count = 2 if step == "twice" else 1
        states[-1], new = add(states[-1], NAMES, images_of([number] * count, [images[number]] * count, LAYOUT))
        assert new == 1
        if step == "fold":
            states[-1] = fold(states[-1], data.draw(st.integers(0, 5)))
    merged = states.pop(0)
    for other in data.draw(st.permutations(states)):
        merged = merge(merged, other) if data.draw(st.booleans()) else merge(other, merged)
    assert_same_sums(merged, images)
    assert merged.classes == sorted({NAMES[label] for label in labels})


@settings(max_examples=40, deadline=None)
@given(labels=LABELS, data=st.data())
def test_what_is_forgotten_or_renamed_leaves_what_the_others_give(labels, data):
    images = dict(enumerate(labels))
    state = learned(list(images), labels)
    for number in data.draw(st.lists(st.sampled_from(list(images)), max_size=5, unique=True)):
        state = forget_image(state, digest_of(number).hex())
        del images[number]
    if 1 in images.values() and data.draw(st.booleans()):
        state = forget_class(state, NAMES[1])
        images = {number: label for number, label in images.items() if label != 1}
    state = fold(state, data.draw(st.integers(0, 10)))
    if {0, 2} <= set(images.values()) and data.draw(st.booleans()):
        state = rename(state, NAMES[0], NAMES[2])
    assert len(state.kept.labels) + (0 if state.folded is None else len(state.folded.labels)) == len(images)
    # The features of an image are those of its first class.
    gram, sums, counts = totals(state, 3)
    expected = totals(learned(list(images), list(images.values())), 3)
    np.testing.assert_allclose(gram, expected[0], rtol=0, atol=1e-12 * np.abs(gram).max(initial=0))
    assert sum(counts.values()) == sum(expected[2].values())
    np.testing.assert_allclose(sum(sums.values()), sum(expected[1].values()), rtol=1e-12, atol=1e-12)


def test_renaming_to_a_class_that_exists_makes_the_two_one():
    state = rename(fold(learned(range(9), [0, 1, 2] * 3), 4), "cat", "bee")
    assert state.classes == ["bee", "dog"]
    assert state.counts.tolist() == [6, 3]
    before = totals(learned(range(9), [0, 1, 2] * 3), 3)[1]
    after = totals(state, 3)[1]
    np.testing.assert_allclose(after["bee"], before["bee"] + before["cat"], rtol=1e-12)
    np.testing.assert_allclose(after["dog"], before["dog"], rtol=1e-12)


def test_a_new_name_keeps_the_classes_sorted():
    state = rename(learned(range(6), [0, 1, 2] * 2), "bee", "zebra")
    assert state.classes == ["cat", "dog", "zebra"]
    assert contents(state)[digest_of(2)][0] == "zebra"
    assert rename(state, "dog", "dog").classes == state.classes


def test_an_image_that_is_known_counts_once_and_its_newer_label_counts():
    state = learned([1, 2], [0, 1])
    state, new = add(state, ["dog", "fly"], images_of([2, 3, 3], [1, 0, 1], LAYOUT))
    assert new == 1
    assert {digest: name for digest, (name, _) in contents(state).items()} == {
        digest_of(1): "cat",
        digest_of(2): "fly",
        digest_of(3): "fly",
    }
    assert state.classes == ["cat", "fly"]


def test_a_folded_image_is_known_and_keeps_its_label():
    state = fold(learned([1, 2], [0, 1]), 1)
    assert [digest.tobytes() for digest in state.folded.digests] == [digest_of(1)]
    again, new = add(state, NAMES, images_of([1], [0], LAYOUT))
    assert new == 0
    assert_same_sums(again, {1: 0, 2: 1})
    with pytest.raises(UserError, match=r"1 images that are folded .* another class"):
        add(state, NAMES, images_of([1], [1], LAYOUT))
    with pytest.raises(UserError, match="another class"):
        merge(learned([1], [1]), state)
    with pytest.raises(UserError, match="another class"):
        merge(state, learned([1], [1]))


def test_states_that_share_images_count_them_once():
    whole = {number: number % 3 for number in range(8)}
    first, second = learned(range(5), [0, 1, 2, 0, 1]), learned(range(3, 8), [0, 1, 2, 0, 1])
    assert_same_sums(merge(first, second), whole)
    assert_same_sums(merge(fold(first, 5), second), whole)
    assert_same_sums(merge(first, fold(second, 5)), whole)
    assert merge(first, fold(second, 5)).kept.labels.size == 3
    with pytest.raises(UserError, match="both have folded the same 2 images"):
        merge(fold(first, 5), fold(second, 5))


def test_of_an_image_under_two_labels_that_of_the_other_state_counts():
    assert contents(merge(learned([1], [0]), learned([1], [1])))[digest_of(1)][0] == "dog"


def test_only_states_of_the_same_features_are_merged():
    for other in (
        layout_of("int8"),
        layout_of(taps={"late:mean": 12}),
        layout_of(taps=dict(reversed(LAYOUT.taps.items()))),
    ):
        with pytest.raises(UserError, match="other features"):
            merge(empty(LAYOUT), empty(other))


def test_the_oldest_of_the_largest_classes_are_folded_first():
    labels = [0, 0, 1, 0, 2, 0, 1, 0]
    state = learned(range(len(labels)), labels)
    left = [1, 2, 3, 4, 5, 6, 7], [2, 3, 4, 5, 6, 7], [2, 4, 5, 6, 7], [4, 5, 6, 7], [4, 6, 7]
    for count, kept in enumerate(left, 1):
        digests = [digest.tobytes() for digest in fold(state, count).kept.digests]
        assert digests == [digest_of(number) for number in kept], count
    assert fold(state, 0) is state
    assert len(fold(state, 100).kept.labels) == 0


def test_storage_is_filled_and_not_exceeded():
    state = learned(range(10), [0, 1] * 5)
    size = LAYOUT.row_bytes
    for storage, kept in ((4 * size, 4), (5 * size - 1, 4), (100 * size, 10), (0, 0)):
        assert len(fold_to(state, storage).kept.labels) == kept
    assert_same_sums(fold_to(state, 4 * size), {number: number % 2 for number in range(10)})


@pytest.mark.parametrize("format", ["float16", "int8"])
@pytest.mark.parametrize("groups", [1, 2])
def test_sums_over_the_last_groups_alone(format, groups):
    layout = layout_of(format)
    images = {number: number % 3 for number in range(12)}
    whole = learned(list(images), list(images.values()), layout)
    few = fold(whole, 6, groups)
    assert few.folded.groups == groups
    assert_same_sums(few, images, layout, groups)
    assert_same_sums(fold(few, 3), images, layout, groups)
    all_of_it = fold(whole, 12)
    less = restrict(all_of_it.folded, layout, groups)
    columns = layout.width - layout.first_column(groups)
    expected = unpacked(all_of_it.folded.gram, layout.width)[-columns:, -columns:]
    np.testing.assert_array_equal(unpacked(less.gram, columns), expected)
    np.testing.assert_array_equal(less.sums, all_of_it.folded.sums[:, -columns:])
    other = fold(learned(range(20, 24), [0, 1, 2, 0], layout), 4)
    merged = merge(few, other)
    assert_same_sums(merged, images | dict(zip(range(20, 24), [0, 1, 2, 0], strict=True)), layout, groups)


def test_what_was_folded_cannot_be_forgotten():
    state = fold(learned(range(6), [0, 1, 2] * 2), 1)
    with pytest.raises(UserError, match=r"1 images of class 'cat' are folded .* larger --storage"):
        forget_class(state, "cat")
    with pytest.raises(UserError, match=r"folded into sums, and cannot be forgotten; learn anew"):
        forget_image(state, digest_of(0).hex()[:8])
    assert forget_class(state, "dog").classes == ["bee", "cat"]


def test_what_is_not_there_cannot_be_forgotten_or_renamed():
    state = learned(range(6), [0, 1, 2] * 2)
    with pytest.raises(UserError, match="no class 'cow' among bee, cat, dog"):
        forget_class(state, "cow")
    with pytest.raises(UserError, match="no class 'cow'"):
        rename(state, "cow", "cat")
    with pytest.raises(UserError, match="no image has"):
        forget_image(state, digest_of(9).hex())
    with pytest.raises(UserError, match="6 images have"):
        forget_image(state, "")


def test_digests_may_end_in_zeros():
    """numpy takes zeros at the end of bytes for padding."""
    images = images_of([1, 2, 3], [0, 1, 2], LAYOUT)
    digests = np.zeros((3, 16), np.uint8)
    digests[1, 0], digests[2, :2] = 5, (5, 1)
    state, new = add(empty(LAYOUT), NAMES, type(images)(digests, images.labels, images.codes))
    assert new == 3
    assert add(state, NAMES, type(images)(digests[:2], images.labels[:2], images.codes[:2]))[1] == 0
