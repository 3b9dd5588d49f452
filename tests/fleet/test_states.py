"""deploy/flower's learning in one pass, its pure part: what travels gives the classifier of all images, and what no
images have left is refused."""

import dataclasses
import json
import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_s2a.artifact import tensors
from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.learned import Kept
from edge_s2a.codec.features import decode, encode
from edge_s2a.device.closed_form.form import choose_form
from edge_s2a.device.closed_form.solve import solve
from edge_s2a.device.closed_form.state import add, empty, fold, merge
from edge_s2a.errors import UserError
from tests.device.closed_form.images import TAPS, contents, images_of, unpacked
from tests.field.fuzz import mutated_bytes
from tests.helpers.paths import PROJECT

sys.path.insert(0, str(PROJECT / "deploy" / "flower"))
from fleet.states import choice, head_of, layout_of, learning_digest, pack, packed_bytes, unpack

MANIFEST = SimpleNamespace(taps=TAPS, tap_count=sum(TAPS.values()))
LAYOUT = layout_of(MANIFEST)
WIDTH = LAYOUT.width
NAMES = ["cat", "dog", "bee"]


def learned(images: dict[int, int]):
    """The state of images {number: label}; a device that has none of a class has no such class."""
    return add(empty(LAYOUT), NAMES, images_of(list(images), list(images.values()), LAYOUT))[0]


def classifier(state, ridge=None):
    groups = None if state.folded is None else state.folded.groups
    form = choose_form(len(state.kept.labels), groups, LAYOUT, len(state.classes), 1 << 30)
    return solve(state, form, ridge=ridge)


def assert_same_classifier(found, expected):
    """Solved for in float64 from matrices whose condition is below 1e7, and rounded to float32: 1e-6 of the largest."""
    assert found.classes == expected.classes
    assert found.images == expected.images
    for name in ("weight", "bias", "mean", "deviation"):
        wanted = getattr(expected, name)
        np.testing.assert_allclose(getattr(found, name), wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.integers(0, 2), min_size=2, max_size=60), data=st.data())
def test_any_partition_in_any_order_gives_the_classifier_of_all_images(labels, data):
    owners = data.draw(st.lists(st.integers(0, 3), min_size=len(labels), max_size=len(labels)), "owners")
    images = dict(enumerate(labels))
    devices = [
        {number: images[number] for number, owner in enumerate(owners) if owner == device} for device in set(owners)
    ]
    kinds = [data.draw(st.sampled_from(["features", "sums"]), "kind") for _ in devices]
    fleet = empty(LAYOUT)
    for number in data.draw(st.permutations(range(len(devices))), "order"):
        fleet = merge(fleet, unpack(pack(learned(devices[number]), kinds[number]), MANIFEST))
    # Of sums alone no image is left out, and lambda is not chosen.
    ridge = None if set(kinds) == {"features"} else 0.1
    assert_same_classifier(classifier(fleet, ridge), classifier(learned(images), ridge))


def test_features_arrive_as_they_were():
    state = learned({number: number % 3 for number in range(20)})
    assert contents(unpack(pack(state, "features"), MANIFEST)) == contents(state)


@pytest.mark.parametrize("images", [1, 3, WIDTH // 2, WIDTH // 2 + 1, WIDTH, 3 * WIDTH])
def test_sums_arrive_without_a_row_of_any_image(images):
    """Compared with sums over images one by one; rounding of some hundred terms of float64."""
    state = learned({number: number % 3 for number in range(images)})
    sent = pack(state, "sums")
    found = unpack(sent, MANIFEST)
    features = decode(state.kept.codes[0:images], LAYOUT).astype(np.float64)
    gram = np.einsum("ni,nj->ij", features, features)
    np.testing.assert_allclose(unpacked(found.folded.gram, WIDTH), gram, rtol=0, atol=1e-12 * gram.max())
    for label, _ in enumerate(state.classes):
        total = features[state.kept.labels == label].sum(0)
        np.testing.assert_allclose(found.folded.sums[label], total, rtol=1e-12)
    assert found.counts.tolist() == state.counts.tolist()
    assert len(found.kept.labels) == 0
    assert found.folded.digests.tolist() == state.kept.digests.tolist()
    sizes = {name: array.size for name, array in tensors.decode(sent, "sums")[0].items()}
    assert sizes["kept.codes"] == 0
    few = images <= WIDTH // 2
    rows = images if few else WIDTH
    assert sizes["folded.factor" if few else "folded.gram"] == sum(WIDTH - row for row in range(rows))


@pytest.mark.parametrize("kind", ["features", "sums"])
@pytest.mark.parametrize("images", [3, 3 * WIDTH])
def test_what_travels_is_as_large_as_it_was_said_to_be(kind, images):
    state = learned({number: number % 3 for number in range(images)})
    arrays = tensors.decode(pack(state, kind), kind)[0].values()
    assert sum(array.nbytes for array in arrays) == packed_bytes(kind, images, 3, LAYOUT)


def test_the_smaller_of_the_two_travels():
    wide = layout_of(SimpleNamespace(taps={"late:mean": 1000, "late:std": 1304}))
    assert choice("auto", 100, 10, wide) == "features"
    assert choice("sums", 100, 10, wide) == "sums"
    assert choice("auto", 20000, 10, wide) == "sums"
    assert choice("features", 20000, 10, wide) == "features"


def test_an_image_that_two_devices_have_counts_once():
    first, second = {1: 0, 2: 1, 3: 2, 4: 0}, {3: 2, 4: 0, 5: 1}
    whole = classifier(learned(first | second), 0.1)
    for kinds in (("features", "features"), ("features", "sums"), ("sums", "features")):
        packed = [pack(learned(own), kind) for own, kind in zip((first, second), kinds, strict=True)]
        assert_same_classifier(classifier(merge(*(unpack(data, MANIFEST) for data in packed)), 0.1), whole)
    sums = [unpack(pack(learned(own), "sums"), MANIFEST) for own in (first, second)]
    with pytest.raises(UserError, match="both have folded the same 2 images"):
        merge(*sums)


# -- what is refused -----------------------------------------------------------------------------------

STATE = learned({number: number % 3 for number in range(2 * WIDTH)})
FEW = learned({number: number % 3 for number in range(4)})


def changed(state, kind, **changes) -> np.ndarray:
    """A packed state with other tensors: name with _ for . -> function of what it was; classes: metadata."""
    arrays, metadata = tensors.decode(pack(state, kind), "state")
    arrays = {name: array.copy() for name, array in arrays.items()}
    if "classes" in changes:
        metadata["classes"] = json.dumps(changes.pop("classes"))
    for name, change in changes.items():
        name = name.replace("_", ".")
        arrays[name] = change(arrays.get(name))
    return np.frombuffer(tensors.encode(arrays, metadata), np.uint8)


def negative_square(gram):
    gram[0] *= -1
    return gram


def wrong_product(gram):
    """A product of two features larger than their squares allow."""
    gram[1] = 2 * np.sqrt(gram[0] * gram[WIDTH])
    return gram


def less_than_the_means(gram):
    """Squares of a feature below what its class means alone give."""
    return gram * 0.9


def huge(gram):
    return gram * 1e20


LIES = {
    "another shape": (STATE, "features", {"kept_codes": lambda codes: codes[:, 1:]}, "expected uint8"),
    "another dtype": (STATE, "sums", {"folded_sums": lambda sums: sums.astype(np.float32)}, "expected float64"),
    "fewer labels": (STATE, "features", {"kept_labels": lambda labels: labels[1:]}, "labels"),
    "labels of no class": (STATE, "sums", {"folded_labels": lambda labels: labels + 3}, "labels of no class"),
    "a class without images": (FEW, "features", {"kept_labels": lambda labels: labels * 0}, "a class without images"),
    "an image twice": (STATE, "sums", {"folded_digests": lambda digests: digests * 0}, "an image twice"),
    "codes of no features": (STATE, "features", {"kept_codes": lambda codes: codes * 0 + 255}, "no finite features"),
    "unsorted classes": (STATE, "features", {"classes": ["dog", "cat", "bee"]}, "classes"),
    "classes that are no names": (STATE, "features", {"classes": [1, 2, 3]}, "classes"),
    "a tensor too many": (STATE, "features", {"kept_more": lambda _: np.zeros(1)}, "missing or unknown"),
    "sums that are not finite": (STATE, "sums", {"folded_gram": lambda gram: gram * np.nan}, "not finite"),
    "a factor that is not finite": (FEW, "sums", {"folded_factor": lambda factor: factor * np.inf}, "not finite"),
    "a factor of other images": (FEW, "sums", {"folded_labels": lambda labels: labels[1:]}, "folded.factor"),
    "negative squares": (STATE, "sums", {"folded_gram": negative_square}, "below zero"),
    "a product too large": (STATE, "sums", {"folded_gram": wrong_product}, "not those of any images"),
    "squares too small": (STATE, "sums", {"folded_gram": less_than_the_means}, "not those of any images"),
    "huge sums": (STATE, "sums", {"folded_gram": huge}, "beyond what their codes hold"),
    "sums of other images": (FEW, "sums", {"folded_sums": lambda sums: sums * 1.1}, "not those of any images"),
}


@pytest.mark.parametrize(("state", "kind", "changes", "reason"), LIES.values(), ids=LIES)
def test_what_no_images_have_left_is_refused(state, kind, changes, reason):
    with pytest.raises(UserError, match=reason) as refused:
        unpack(changed(state, kind, **changes), MANIFEST)
    assert "install the server's version" in str(refused.value)


def test_what_is_no_buffer_of_bytes_is_refused():
    for data in (np.zeros(0, np.uint8), np.zeros(100, np.float32), pack(FEW, "sums")[None], pack(FEW, "sums")[:-1]):
        with pytest.raises(UserError, match="malformed"):
            unpack(data, MANIFEST)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 1 << 32), kind=st.sampled_from(["features", "sums"]))
def test_no_change_of_bytes_does_worse_than_be_refused(seed, kind):
    """Nothing but a refusal, or a state that the server can solve with others."""
    data = np.frombuffer(mutated_bytes(pack(STATE, kind).tobytes(), random.Random(seed)), np.uint8)
    try:
        state = unpack(data, MANIFEST)
    except UserError:
        return
    others = fold(learned({100: 0, 101: 1, 102: 2}), 3)
    assert np.isfinite(classifier(merge(state, others), 0.1).weight).all()


@pytest.mark.parametrize("mean", [0, 1, 100])
def test_the_sums_of_many_images_are_believed(mean):
    """However small features vary around their means: rounding is not taken for a lie."""
    count, manifest = 20_000, SimpleNamespace(taps={"late:mean": 40}, tap_count=40)
    layout = layout_of(manifest)
    rng = np.random.default_rng(0)
    features = (mean + 0.1 * rng.standard_normal((count, 4)) @ rng.standard_normal((4, 40))).astype(np.float32)
    digests = rng.integers(0, 256, (count, 16), np.uint8)
    state = add(empty(layout), NAMES, Kept(digests, rng.integers(0, 3, count), encode(features, layout)))[0]
    assert unpack(pack(state, "sums"), manifest).counts.sum() == count


# -- artifacts and classifiers -------------------------------------------------------------------------


def test_the_digest_tells_models_and_taps_apart_but_not_adapters(small_artifact):
    manifest = Artifact(small_artifact).manifest
    digest = learning_digest(manifest)
    other_taps = dict(list(manifest.taps.items())[1:])
    other_size = dataclasses.replace(manifest.preprocessing, resize_size=(40, 40))
    for changes in ({"labels": ["one", "three", "two"]}, {"taps": other_taps}, {"preprocessing": other_size}):
        assert learning_digest(dataclasses.replace(manifest, **changes)) != digest
    assert learning_digest(dataclasses.replace(manifest, adapter_shapes={"more": [3]}, saved_bits="8")) == digest


def test_a_classifier_that_does_not_fit_is_refused():
    values = np.arange(3 * (WIDTH + 1), dtype=np.float32).reshape(3, -1)
    weight, bias = head_of(values, 3, MANIFEST)
    np.testing.assert_array_equal(np.column_stack([weight, bias]), values)
    for wrong in (values[:, 1:], values.astype(np.float64), values * np.nan):
        with pytest.raises(UserError, match="classifier"):
            head_of(wrong, 3, MANIFEST)
