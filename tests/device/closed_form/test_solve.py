"""The classifier against a reference that shares nothing with it: least squares on augmented rows, and refits.

Heads are compared by their logits on other images, in float32: to 1e-5 of the largest (weights and bias are rounded to
float32 once; the two sides sum up in another order, which float64 with condition numbers up to 1e5 keeps below that).
"""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_s2a.codec.features import decode
from edge_s2a.device.closed_form import sample
from edge_s2a.device.closed_form import solve as solving
from edge_s2a.device.closed_form.form import BLOCKS, Form, choose_form, work_bytes
from edge_s2a.device.closed_form.solve import GRID, probabilities, scores, solve
from edge_s2a.device.closed_form.state import add, empty, fold, forget_class, forget_image, merge, rename
from edge_s2a.errors import UserError
from tests.device.closed_form.images import TAPS, digest_of, features_of, images_of, layout_of

LAYOUT = layout_of()
NAMES = ["cat", "dog", "bee"]
FORMS = {"dual": Form("dual", 3, 8, 0), "primal": Form("primal", 3, 8, 0)}
FRESH = np.array([features_of(number, number % 3, LAYOUT) for number in range(900, 930)])


def learned(numbers, labels, layout=LAYOUT, names=NAMES):
    return add(empty(layout), names, images_of(numbers, labels, layout))[0]


def decoded(state, groups=3):
    rows = state.kept.codes[0 : len(state.kept.codes)]
    return decode(rows, state.layout, groups).astype(np.float64), state.kept.labels


def least_squares(z, labels, classes, ridge, features):
    """(weights of z, intercepts) that minimise |Y - z w - b|^2 + ridge features |w|^2: rows of the penalty below z."""
    count, columns = z.shape
    rows = np.block([[z, np.ones((count, 1))], [np.sqrt(ridge * features) * np.eye(columns), np.zeros((columns, 1))]])
    targets = np.concatenate([np.eye(classes)[labels], np.zeros((columns, classes))])
    solution = np.linalg.lstsq(rows, targets, rcond=None)[0]
    return solution[:-1], solution[-1]


def standardised(x):
    deviation = x.std(0)
    return np.where(deviation > 0, (x - x.mean(0)) / np.where(deviation > 0, deviation, 1), 0), (deviation > 0).sum()


def logits(head, features=FRESH):
    return features @ head.weight.T + head.bias


def assert_same(head, expected, tolerance=1e-5):
    assert head.classes == expected.classes
    reference = logits(expected)
    np.testing.assert_allclose(logits(head), reference, rtol=0, atol=tolerance * np.abs(reference).max())


@pytest.mark.parametrize("format", ["float16", "int8"])
@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("count", [7, 40])
@pytest.mark.parametrize("ridge", [1e-4, 1e-2, 10])
def test_weights_are_those_of_least_squares(format, kind, count, ridge):
    layout = layout_of(format)
    state = learned(range(count), [number % 3 for number in range(count)], layout)
    head = solve(state, FORMS[kind], ridge=ridge)
    x, labels = decoded(state)
    z, features = standardised(x)
    weight, intercept = least_squares(z, labels, 3, ridge, features)
    expected = ((FRESH - x.mean(0)) / x.std(0)) @ weight + intercept
    np.testing.assert_allclose(logits(head), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(head.mean, x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(head.deviation, x.std(0), rtol=1e-6)
    assert (head.images, head.ridge, head.classes) == (count, ridge, ["bee", "cat", "dog"])


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("count", [9, 40])
@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_scores_of_what_is_left_out_are_those_of_refits(kind, count, ridge, monkeypatch):
    """Each refit knows all images but one, at the standardisation of all."""
    seen = {}
    best = solving.best_temperature
    monkeypatch.setattr(
        solving, "best_temperature", lambda scores, *rest: seen.setdefault("s", scores) is None or best(scores, *rest)
    )
    state = learned(range(count), [number % 3 for number in range(count)])
    head = solve(state, FORMS[kind], ridge=ridge)
    x, labels = decoded(state)
    z, features = standardised(x)
    expected = np.empty((count, 3))
    for number in range(count):
        others = np.arange(count) != number
        weight, intercept = least_squares(z[others], labels[others], 3, ridge, features)
        expected[number] = z[number] @ weight + intercept
    np.testing.assert_allclose(seen["s"], expected, rtol=0, atol=1e-8 * np.abs(expected).max())
    assert head.measured.accuracy == pytest.approx((expected.argmax(1) == labels).mean())


def test_what_is_left_out_of_folded_states_is_what_is_kept(monkeypatch):
    """With weights that make each class count as often as it was learned."""
    seen = []
    best = solving.best_temperature
    monkeypatch.setattr(solving, "best_temperature", lambda *given: seen.append(given) or best(*given))
    whole = learned(range(30), [0] * 18 + [1] * 9 + [2] * 3)
    state = fold(whole, 12)
    assert np.bincount(state.kept.labels).tolist() == [3, 7, 8]
    solve(whole, FORMS["primal"], ridge=0.01)
    solve(state, FORMS["primal"], ridge=0.01)
    (all_scores, _, _), (scores, labels, weights) = seen
    rows = [row for row in range(30) if digest_of(row) in {digest.tobytes() for digest in state.kept.digests}]
    np.testing.assert_allclose(scores, all_scores[rows], rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.bincount(labels, weights), np.array([3, 18, 9]) / 30, rtol=1e-12)


@pytest.mark.parametrize("ridge", [1e-4, 0.1])
@pytest.mark.parametrize("count", [8, 30])
def test_dual_primal_and_folded_give_the_same_head(ridge, count):
    state = learned(range(count), [number % 3 for number in range(count)])
    expected = solve(state, FORMS["dual"], ridge=ridge)
    assert_same(solve(state, FORMS["primal"], ridge=ridge), expected)
    for folded in (1, count // 2, count):
        assert_same(solve(fold(state, folded), FORMS["primal"], ridge=ridge), expected)
    for block in (1, 3, 64):
        assert_same(solve(state, replace(FORMS["dual"], block_rows=block), ridge=ridge), expected)
        assert_same(solve(fold(state, count // 3), replace(FORMS["primal"], block_rows=block), ridge=ridge), expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_fewer_groups_are_a_model_of_these_alone(groups):
    state = learned(range(20), [number % 3 for number in range(20)])
    first = LAYOUT.first_column(groups)
    few = learned(range(20), [number % 3 for number in range(20)])
    taps = dict(list(TAPS.items())[-groups:])
    codes = few.kept.codes[0:20][:, 2 * first :].copy()
    alone = replace(few, layout=layout_of(taps=taps), kept=replace(few.kept, codes=codes))
    expected = solve(alone, Form("dual", groups, 8, 0), ridge=0.01)
    for form, learned_state in (
        ("dual", state),
        ("primal", state),
        ("primal", fold(state, 9)),
        ("primal", fold(state, 9, groups)),
    ):
        head = solve(learned_state, Form(form, groups, 8, 0), ridge=0.01)
        np.testing.assert_array_equal(head.weight[:, :first], 0)
        np.testing.assert_array_equal(head.deviation[:first], 0)
        reference = logits(expected, FRESH[:, first:])
        np.testing.assert_allclose(logits(head), reference, rtol=0, atol=1e-5 * np.abs(reference).max())


@pytest.mark.parametrize("kind", FORMS)
def test_features_that_never_change_are_ignored(kind):
    layout = layout_of()
    images = images_of(range(20), [number % 3 for number in range(20)], layout)
    halves = images.codes.view("<f2").copy()
    halves[:, 4] = 123.4
    state = add(empty(layout), NAMES, replace(images, codes=halves.view(np.uint8)))[0]
    for some in [state, fold(state, 10)] if kind == "primal" else [state]:
        head = solve(some, FORMS[kind], ridge=0.01)
        assert head.deviation[4] == 0
        np.testing.assert_array_equal(head.weight[:, 4], 0)
        x, labels = decoded(state)
        z, features = standardised(x)
        assert features == layout.width - 1
        weight, intercept = least_squares(z, labels, 3, 0.01, features)
        expected = np.argmax(z @ weight + intercept, 1)
        np.testing.assert_array_equal(logits(head, x.astype(np.float32)).argmax(1), expected)


@pytest.mark.parametrize(("count", "noise"), [(60, False), (60, True), (12, False), (300, False)])
def test_lambda_is_the_largest_of_those_with_the_least_squared_error(count, noise, monkeypatch):
    """From 0.1 down as long as a step gains 1 %, or else up as long as the error is within 1 % of the least."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, count) if noise else np.arange(count) % 3
    images = images_of(range(count), [number % 3 for number in range(count)], LAYOUT)
    state = add(empty(LAYOUT), NAMES, replace(images, labels=labels))[0]
    form = choose_form(count, None, LAYOUT, 3, 1 << 24)
    seen = []
    best = solving.best_temperature
    monkeypatch.setattr(solving, "best_temperature", lambda *given: seen.append(given[0].copy()) or best(*given))
    for value in GRID:
        solve(state, form, ridge=value)
    values = [((np.eye(3)[state.kept.labels] - outputs) ** 2).sum() for outputs in seen]
    place = GRID.index(solving.DEFAULT_RIDGE)
    expected = place
    while expected > 0 and values[expected - 1] < 0.99 * values[expected]:
        expected -= 1
    if expected == place:
        while expected + 1 < len(GRID) and values[expected + 1] <= 1.01 * min(values[place : expected + 2]):
            expected += 1
    head = solve(state, form)
    assert head.ridge == GRID[expected]
    assert head.measured == solve(state, form, ridge=head.ridge).measured


def test_of_many_images_a_sample_is_left_out(monkeypatch):
    """As many of each class, the same in whatever order they came."""
    seen = []
    best = solving.best_temperature
    monkeypatch.setattr(solving, "best_temperature", lambda *given: seen.append(given) or best(*given))
    labels = [0] * 30 + [1] * 8 + [2] * 2 + [1]
    orders = [np.arange(41), np.random.default_rng(0).permutation(41)]
    states = [learned(order.tolist(), np.array(labels)[order].tolist()) for order in orders]
    whole = solve(states[0], FORMS["primal"])
    monkeypatch.setattr(sample, "MOST_LEFT_OUT", 16)
    heads = [solve(state, FORMS[kind], ridge=whole.ridge) for state in states for kind in FORMS]
    for _, chosen, weights in seen[1:]:
        assert np.bincount(chosen).tolist() == [2, 7, 7]
        np.testing.assert_allclose(np.bincount(chosen, weights), np.array([2, 30, 9]) / 41, rtol=1e-12)
    all_scores = {tuple(np.round(row, 9)) for row in seen[0][0]}
    for chosen_scores, _, _ in seen[1:]:
        assert {tuple(np.round(row, 9)) for row in chosen_scores} <= all_scores
    for head in heads[1:]:
        assert_same(head, heads[0])
        assert head.temperature == pytest.approx(heads[0].temperature, rel=1e-6)


# -- balanced classes ----------------------------------------------------------------------------------


def test_balanced_scores_are_those_of_the_formula():
    """(score - share) (share classes)^-1/4 + 1 / classes, also in a folded state."""
    state = learned(range(30), [0] * 18 + [1] * 9 + [2] * 3)
    shares = np.array([3, 18, 9]) / 30
    for given_state, form in ((state, FORMS["dual"]), (fold(state, 10), FORMS["primal"])):
        plain = solve(given_state, form, ridge=0.1)
        balanced = solve(given_state, form, class_weights="balanced", ridge=0.1)
        expected = (logits(plain) - shares) * (3 * shares) ** -0.25 + 1 / 3
        np.testing.assert_allclose(logits(balanced), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_what_is_measured_of_balanced_classes_counts_them_alike(monkeypatch):
    seen = []
    best = solving.best_temperature
    monkeypatch.setattr(solving, "best_temperature", lambda *given: seen.append(given) or best(*given))
    state = learned(range(30), [0] * 18 + [1] * 9 + [2] * 3)
    head = solve(state, FORMS["dual"], class_weights="balanced")
    ((outputs, labels, _),) = seen
    recalls = [(outputs.argmax(1) == labels)[labels == label].mean() for label in range(3)]
    assert head.measured.accuracy == pytest.approx(np.mean(recalls))


def test_with_as_many_images_of_each_class_balancing_changes_nothing():
    state = learned(range(30), [number % 3 for number in range(30)])
    plain, balanced = (solve(state, FORMS["dual"], class_weights=weights) for weights in ("none", "balanced"))
    assert_same(balanced, plain)
    assert balanced.temperature == pytest.approx(plain.temperature, rel=1e-9)


def test_rare_classes_are_found_more_often_when_balanced():
    layout = layout_of(taps={"a": 4})
    labels = [0] * 60 + [1] * 20 + [2] * 5
    state = learned(range(len(labels)), labels, layout)
    fresh = np.array([features_of(number, 2, layout) for number in range(500, 700)])
    form = Form("dual", 1, 64, 0)
    rare = state.classes.index(NAMES[2])
    plain, balanced = (solve(state, form, class_weights=weights) for weights in ("none", "balanced"))
    found = [(scores(head, fresh).argmax(1) == rare).mean() for head in (plain, balanced)]
    assert found[1] > found[0] + 0.1


# -- any order, any partition --------------------------------------------------------------------------

STEPS = st.sampled_from(["add", "add", "add", "fold", "new device"])


@settings(max_examples=50, deadline=None)
@given(data=st.data(), count=st.integers(8, 40), folds=st.booleans())
def test_any_order_and_partition_gives_the_head_of_everything_at_once(data, count, folds):
    """At the same lambda; where all images are kept, lambda, temperature and what is measured are the same as well."""
    images = {number: number % 3 for number in range(count)}
    forgotten = {number: number % 3 for number in range(100, 100 + data.draw(st.integers(0, 3)))}
    devices = [empty(LAYOUT)]
    everything = data.draw(st.permutations([*images, *forgotten]))
    place = 0
    while place < len(everything):
        step = data.draw(STEPS)
        if step == "new device":
            devices.append(empty(LAYOUT))
        elif step == "fold" and folds:
            some = fold(devices[-1], data.draw(st.integers(1, 6)))
            if (
                not any(digest_of(number) in {d.tobytes() for d in some.folded.digests} for number in forgotten)
                if some.folded
                else True
            ):
                devices[-1] = some
        some = everything[place : place + data.draw(st.integers(1, 8))]
        place += len(some)
        labels = [number % 3 for number in some]
        names = ["cat", "doe", "bee"] if data.draw(st.booleans()) else ["cat", "dog", "bee"]
        devices[-1] = add(devices[-1], names, images_of(some, labels, LAYOUT))[0]
    state = devices[0]
    for other in devices[1:]:
        state = merge(other, state) if data.draw(st.booleans()) else merge(state, other)
    if "doe" in state.classes:
        state = rename(state, "doe", "dog")
    for number in forgotten:
        state = forget_image(state, digest_of(number).hex())
    expected_state = learned(list(images), list(images.values()))
    expected = solve(expected_state, choose_form(count, None, LAYOUT, 3, 1 << 24))
    folded_groups = None if state.folded is None else state.folded.groups
    form = choose_form(len(state.kept.labels), folded_groups, LAYOUT, 3, 1 << 24)
    head = solve(state, form, ridge=expected.ridge)
    assert_same(head, expected)
    np.testing.assert_allclose(head.mean, expected.mean, rtol=1e-6)
    np.testing.assert_allclose(head.deviation, expected.deviation, rtol=1e-6)
    if state.folded is None:
        again = solve(state, form)
        assert again.ridge == expected.ridge
        assert again.temperature == pytest.approx(expected.temperature, rel=1e-6)
        assert again.measured.log_loss == pytest.approx(expected.measured.log_loss, rel=1e-6)
        assert again.measured.accuracy == pytest.approx(expected.measured.accuracy)


def test_a_class_that_is_forgotten_leaves_the_head_of_the_others():
    images = {number: number % 3 for number in range(30)}
    state = forget_class(learned(list(images), list(images.values())), "dog")
    others = {number: label for number, label in images.items() if label != 1}
    expected = solve(learned(list(others), list(others.values())), FORMS["dual"])
    assert_same(solve(state, FORMS["dual"]), expected)
    assert expected.classes == ["bee", "cat"]


def test_confusions_are_those_of_left_out_images(monkeypatch):
    seen = []
    best = solving.best_temperature
    monkeypatch.setattr(solving, "best_temperature", lambda *given: seen.append(given) or best(*given))
    layout = layout_of(taps={"a": 2})
    head = solve(learned(range(40), [number % 3 for number in range(40)], layout), Form("primal", 1, 8, 0))
    ((outputs, labels, _),) = seen
    expected = np.zeros((3, 3), int)
    for row, label in zip(outputs, labels, strict=True):
        expected[label, row.argmax()] += 1
    assert head.measured.confusion == expected.tolist()
    assert head.measured.accuracy == pytest.approx(np.trace(expected) / 40)


# -- few images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [0, 1], [0, 0, 1], [0, 1, 2, 2], [0, 0, 1, 1]])
def test_few_images_give_a_head_that_knows_them(kind, labels):
    """With one class it is certain. Nothing is measured unless two classes have images that can be left out."""
    state = learned(range(len(labels)), labels)
    head = solve(state, FORMS[kind])
    x, kept = decoded(state)
    rows = probabilities(head, x.astype(np.float32))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(rows.argmax(1), kept)
    can_leave_out = (np.bincount(labels) > 1).sum() > 1
    assert (head.measured is None) == (not can_leave_out)
    assert head.temperature > 0
    if len(set(labels)) == 1:
        np.testing.assert_array_equal(rows, 1)


def test_equal_images_give_the_shares_of_their_classes():
    images = images_of([0] * 4, [0] * 4, LAYOUT)
    digests = np.arange(64, dtype=np.uint8).reshape(4, 16)
    state = add(empty(LAYOUT), NAMES, replace(images, digests=digests, labels=np.array([0, 0, 0, 1])))[0]
    for kind in FORMS:
        head = solve(state, FORMS[kind])
        np.testing.assert_allclose(logits(head), np.tile([0.75, 0.25], (len(FRESH), 1)), rtol=1e-6)


def test_where_nothing_is_kept_lambda_and_temperature_stay():
    whole = learned(range(30), [number % 3 for number in range(30)])
    before = solve(whole, FORMS["primal"], ridge=0.1)
    head = solve(fold(whole, 30), FORMS["primal"], previous=before)
    assert (head.ridge, head.temperature, head.measured) == (0.1, before.temperature, None)
    assert_same(head, before)
    alone = solve(fold(whole, 30), FORMS["primal"])
    assert (alone.ridge, alone.temperature) == (solving.DEFAULT_RIDGE, solving.DEFAULT_TEMPERATURE)


def test_nothing_learned_is_said_so():
    with pytest.raises(UserError, match="nothing was learned yet"):
        solve(empty(LAYOUT), FORMS["dual"])


def test_sums_of_no_images_are_refused():
    state = fold(learned(range(30), [number % 3 for number in range(30)]), 30)
    gram = state.folded.gram.copy()
    for place in (0, 1):  # a square that is too small, a product that is too large
        wrong = gram.copy()
        wrong[place] = 1e6 * place
        with pytest.raises(UserError, match="not those of any images"):
            solve(replace(state, folded=replace(state.folded, gram=wrong)), FORMS["primal"])


# -- memory --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "format", "count", "width", "classes", "folded", "block"),
    [
        ("dual", "float16", 500, 700, 4, 0, 256),
        ("dual", "int8", 500, 700, 4, 0, 32),
        ("dual", "float16", 300, 2000, 100, 0, 32),
        ("dual", "int8", 300, 2000, 100, 0, 256),
        ("dual", "float16", 60, 3000, 5, 0, 32),
        ("primal", "float16", 700, 500, 4, 0, 32),
        ("primal", "int8", 700, 500, 4, 0, 256),
        ("primal", "float16", 400, 500, 60, 200, 256),
        ("primal", "int8", 400, 500, 60, 200, 32),
        ("primal", "float16", 1500, 150, 50, 100, 32),
    ],
)
def test_memory_is_what_the_form_says(kind, format, count, width, classes, folded, block):
    layout = layout_of(format, {"a": width // 3, "b": width - width // 3})
    labels = np.arange(count) % classes
    state = learned(range(count), labels.tolist(), layout, [f"{label:03}" for label in range(classes)])
    state = fold(state, folded)
    groups, kept = 2, len(state.kept.labels)
    form = Form(kind, groups, block, work_bytes(kind, kept, groups, block, layout, classes))
    tracemalloc.start()
    solve(state, form, ridge=0.01)
    one = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    solve(state, form)
    peak = max(one, tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert 0.6 * form.work_bytes <= peak <= form.work_bytes


def test_the_form_is_dual_while_images_are_fewer_than_features():
    taps = {f"blocks.{number}:mean": 100 for number in range(4)}
    layout = layout_of(taps=taps)
    plenty = 1 << 30
    assert choose_form(400, None, layout, 5, plenty).kind == "dual"
    assert choose_form(401, None, layout, 5, plenty).kind == "primal"
    assert choose_form(10, 4, layout, 5, plenty).kind == "primal"
    assert choose_form(10, 2, layout, 5, plenty).groups == 2
    whole = choose_form(3000, None, layout, 5, plenty)
    assert (whole.groups, whole.block_rows) == (4, BLOCKS[0])


def test_with_less_memory_blocks_become_smaller_and_then_features_fewer():
    taps = {f"blocks.{number}:mean": 100 for number in range(4)}
    layout = layout_of(taps=taps)
    available = choose_form(3000, None, layout, 5, 1 << 30).work_bytes
    seen = []
    while (form := choose_form(3000, None, layout, 5, available)) is not None:
        assert form.work_bytes <= available
        seen.append((form.groups, form.block_rows))
        available = form.work_bytes - 1
    assert seen == sorted(seen, reverse=True)
    assert {groups for groups, _ in seen} == {1, 2, 3, 4}
    assert {blocks for _, blocks in seen} == set(BLOCKS)
    assert choose_form(3000, None, layout, 5, 0) is None
