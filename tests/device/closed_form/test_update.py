"""Images that are added to a solved state one at a time, against least squares on all of them.

Logits agree to 1e-5 of the largest: weights and bias are rounded to float32.
"""

from dataclasses import replace

import numpy as np
import pytest

from edge_s2a.codec.features import decode
from edge_s2a.device.closed_form.form import Form
from edge_s2a.device.closed_form.solve import probabilities, solve
from edge_s2a.device.closed_form.state import add, empty, fold
from edge_s2a.device.closed_form.update import MOST_ADDED, Update
from tests.device.closed_form.images import features_of, images_of, layout_of
from tests.device.closed_form.test_solve import FRESH, learned, least_squares, logits

LAYOUT = layout_of()
NAMES = ["cat", "dog", "bee"]
COUNT = 24
FORMS = {"dual": Form("dual", 3, 8, 0), "primal": Form("primal", 3, 8, 0), "fewer groups": Form("primal", 2, 8, 0)}


def decoded(rows, groups):
    return decode(rows, LAYOUT, groups).astype(np.float64)


# Sums have the primal form alone.
@pytest.mark.parametrize(
    ("form", "folded"),
    [(form, folded) for form in FORMS.values() for folded in (0, 10) if not (folded and form.kind == "dual")],
)
def test_each_image_gives_the_least_squares_of_all_at_the_standardisation_of_the_first(form, folded):
    """Also where an image brings a new class, which comes first among the sorted names."""
    state = learned(range(COUNT), [number % 3 for number in range(COUNT)])
    first = decoded(state.kept.codes[0:COUNT], form.groups)
    labels = [state.classes[label] for label in state.kept.labels]
    state = fold(state, folded)
    update = Update(state, form, solve(state, form, ridge=0.03))
    mean, deviation = first.mean(0), first.std(0)
    rows = first
    fresh = FRESH[:, LAYOUT.first_column(form.groups) :]
    for number, name in enumerate(["dog", "cat", "ant", "bee", "ant", "zebu"]):
        image = images_of([100 + number], [number % 3], LAYOUT)
        head = update.add(image.codes[0], name)
        rows = np.concatenate([rows, decoded(image.codes, form.groups)])
        labels.append(name)
        classes = sorted(set(labels))
        targets = np.array([classes.index(label) for label in labels])
        weight, intercept = least_squares((rows - mean) / deviation, targets, len(classes), 0.03, rows.shape[1])
        expected = (fresh - mean) / deviation @ weight + intercept
        assert head is update.head
        assert head.classes == classes
        np.testing.assert_array_equal(head.counts, np.bincount(targets))
        np.testing.assert_allclose(logits(head), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        means = [rows[targets == label].mean(0) for label in range(len(classes))]
        np.testing.assert_allclose(head.familiar.means[:, -rows.shape[1] :], means, rtol=1e-5)


def test_balanced_scores_stay_balanced():
    state = learned(range(COUNT), [0] * 16 + [1] * 6 + [2] * 2)
    form = FORMS["dual"]
    plain, balanced = (
        Update(state, form, solve(state, form, ridge=0.1, class_weights=weights), weights)
        for weights in ("none", "balanced")
    )
    for number in range(3):
        row = images_of([100 + number], [2], LAYOUT).codes[0]
        heads = [plain.add(row, "bee"), balanced.add(row, "bee")]
    shares = heads[0].counts / heads[0].counts.sum()
    expected = (logits(heads[0]) - shares) * (3 * shares) ** -0.25 + 1 / 3
    np.testing.assert_allclose(logits(heads[1]), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_full_solution_differs_little():
    """Standardisation and temperature change by a share of about 1 / images: probabilities by 1 % here."""
    count = 300
    state = learned(range(count), [number % 3 for number in range(count)])
    form = FORMS["primal"]
    head = solve(state, form, ridge=0.1)
    update = Update(state, form, head)
    image = images_of([1000], [1], LAYOUT)
    updated = update.add(image.codes[0], "dog")
    full = solve(add(state, NAMES, image)[0], form, ridge=0.1)
    difference = np.abs(probabilities(updated, FRESH) - probabilities(full, FRESH)).max()
    assert difference < 0.01
    # Without the image the difference is of the same order: it has been learned if what it says of itself changes.
    own = decode(image.codes, LAYOUT)
    before, after, exact = (probabilities(some, own)[0, 2] for some in (head, updated, full))
    assert abs(after - exact) < 0.2 * abs(before - exact)


def test_many_images_added_one_at_a_time_are_those_added_at_once():
    """Rounding does not add up: 200 images on 30."""
    state = learned(range(30), [number % 3 for number in range(30)])
    form = FORMS["primal"]
    update = Update(state, form, solve(state, form, ridge=0.01))
    more = images_of(range(100, 300), [number % 3 for number in range(200)], LAYOUT)
    for row, label in zip(more.codes, more.labels, strict=True):
        head = update.add(row, NAMES[label])
    x = decoded(np.concatenate([state.kept.codes[0:30], more.codes]), 3)
    names = [state.classes[label] for label in state.kept.labels] + [NAMES[label] for label in more.labels]
    labels = np.array([sorted(NAMES).index(name) for name in names])
    mean, deviation = x[:30].mean(0), x[:30].std(0)
    weight, intercept = least_squares((x - mean) / deviation, labels, 3, 0.01, LAYOUT.width)
    expected = (FRESH - mean) / deviation @ weight + intercept
    np.testing.assert_allclose(logits(head), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_full_solution_is_due_when_the_images_have_become_more():
    state = learned(range(COUNT), [number % 3 for number in range(COUNT)])
    update = Update(state, FORMS["primal"], solve(state, FORMS["primal"]))
    stale = []
    for number in range(4):
        stale.append(update.is_stale)
        update.add(images_of([100 + number], [0], LAYOUT).codes[0], "cat")
    assert stale == [False, False, False, True]  # an eighth of 24
    update._counts = update._counts * 1000
    assert not update.is_stale
    update.added = MOST_ADDED
    assert update.is_stale


def test_the_state_of_one_class_learns_a_second():
    layout = layout_of()
    state = add(empty(layout), ["cat"], images_of(range(10), [0] * 10, layout))[0]
    update = Update(state, FORMS["dual"], solve(state, FORMS["dual"]))
    image = features_of(500, 1, layout)
    row = replace(images_of([500], [1], layout)).codes[0]
    for _ in range(3):
        head = update.add(row, "dog")
    assert head.classes == ["cat", "dog"]
    assert probabilities(head, image[None])[0].argmax() == 1
    assert probabilities(head, decode(state.kept.codes[0:10], layout)).argmax(1).tolist() == [0] * 10
