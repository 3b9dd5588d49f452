"""Knowledge files: what is read is what was written, bit for bit, and no other file is taken for one."""

import contextlib
import json
import random
import tracemalloc
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_s2a.artifact import tensors
from edge_s2a.artifact.knowledge import (
    Knowledge,
    Trained,
    artifact_of,
    is_knowledge,
    load_knowledge,
    load_taught,
    save_knowledge,
)
from edge_s2a.artifact.learned import Familiar, Head, Kept
from edge_s2a.codec.features import Layout
from edge_s2a.device.closed_form.form import Form
from edge_s2a.device.closed_form.solve import solve
from edge_s2a.device.closed_form.state import add, empty, fold, merge
from edge_s2a.errors import UserError
from tests.device.closed_form.images import TAPS, contents, images_of, layout_of
from tests.field.fuzz import JUNK, mutated_bytes, mutated_json, mutated_member

NAMES = ["cat", "dog", "bée"]
MANIFEST = SimpleNamespace(
    model="vit", model_digest="d1", taps=TAPS, adapter_shapes={"head.bias": [3], "a.up": [2, 4]}, num_classes=3
)
RECORD = {"model": "vit", "classes": {"bée": 4}, "left_out_accuracy": 0.5, "confusion": [[1, 2], [3, 4]]}
ADAPTER = {"head.bias": np.arange(3, dtype=np.float32), "a.up": np.ones((2, 4), np.float32)}


TRAINED = Trained({name: array + 1 for name, array in ADAPTER.items()}, ["dog", "bée", "cat"], 0.25)


def knowledge_of(format="float16", folded=0, groups=3, adapter=False, count=12, trained=None):
    layout = layout_of(format)
    state = add(empty(layout), NAMES, images_of(range(count), [number % 3 for number in range(count)], layout))[0]
    state = fold(state, folded, groups)
    head = solve(state, Form("primal", groups, 8, 0))
    return Knowledge(state, head, ADAPTER if adapter else {}, "/a/model.s2a", RECORD, trained)


CASES = {
    "kept": {},
    "codes of 8 bits": {"format": "int8"},
    "some folded": {"folded": 5},
    "all folded": {"folded": 12},
    "few groups": {"folded": 5, "groups": 2, "format": "int8"},
    "with an adapter": {"adapter": True},
    "beside a trained adapter": {"trained": TRAINED},
    "with one, beside another": {"adapter": True, "trained": TRAINED},
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def written(request, tmp_path):
    """(path, what was written)."""
    knowledge = knowledge_of(**request.param)
    save_knowledge(tmp_path / "k.safetensors", knowledge, MANIFEST)
    return tmp_path / "k.safetensors", knowledge


def assert_equal_heads(found, expected):
    for kind, first, second in ((Head, found, expected), (Familiar, found.familiar, expected.familiar)):
        assert (first is None) == (second is None)
        for name in {field.name for field in fields(kind)} - {"familiar"} if second is not None else ():
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def assert_equal_tensors(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def assert_equal_states(found, expected):
    assert found.layout == expected.layout
    assert found.classes == expected.classes
    assert contents(found) == contents(expected)
    np.testing.assert_array_equal(found.kept.digests, expected.kept.digests)
    assert (found.folded is None) == (expected.folded is None)
    if expected.folded is not None:
        assert found.folded.groups == expected.folded.groups
        for name in ("gram", "sums", "digests", "labels"):
            first, second = getattr(found.folded, name), getattr(expected.folded, name)
            np.testing.assert_array_equal(first[0 : len(first)], second[0 : len(second)])


def test_what_is_read_is_what_was_written(written):
    path, knowledge = written
    found = load_knowledge(path, MANIFEST)
    assert_equal_states(found.state, knowledge.state)
    assert_equal_heads(found.head, knowledge.head)
    assert (found.artifact, found.record) == (knowledge.artifact, RECORD)
    taught = load_taught(path, MANIFEST)
    assert_equal_heads(taught.head, knowledge.head)
    for some in (found, taught):
        assert_equal_tensors(some.adapter, knowledge.adapter)
        assert (some.trained is None) == (knowledge.trained is None)
        if some.trained is not None:
            assert (some.trained.share, some.trained.classes) == (0.25, ["dog", "bée", "cat"])
            assert_equal_tensors(some.trained.adapter, TRAINED.adapter)
    assert is_knowledge(path)
    assert str(artifact_of(path)) == "/a/model.s2a"


def test_what_was_read_goes_on_and_is_written_in_its_own_place(written):
    """It reads from the file whose place it takes."""
    path, knowledge = written
    layout = knowledge.state.layout
    more = images_of(range(20, 26), [0, 1, 2] * 2, layout)
    for _ in range(2):
        state = add(load_knowledge(path, MANIFEST).state, NAMES, more)[0]
        head = solve(state, Form("primal", knowledge.head.groups, 8, 0), ridge=knowledge.head.ridge)
        save_knowledge(path, Knowledge(state, head, knowledge.adapter, "b"), MANIFEST)
    expected = add(knowledge.state, NAMES, more)[0]
    assert_equal_states(load_knowledge(path, MANIFEST).state, expected)
    assert_equal_heads(
        load_taught(path, MANIFEST).head,
        solve(expected, Form("primal", knowledge.head.groups, 8, 0), ridge=knowledge.head.ridge),
    )


def test_states_of_two_files_are_merged(tmp_path):
    first, second = knowledge_of(folded=4), knowledge_of(folded=0)
    layout = layout_of()
    other = add(empty(layout), NAMES, images_of(range(50, 60), [0, 1] * 5, layout))[0]
    second = replace(second, state=fold(other, 3), head=solve(other, Form("dual", 3, 8, 0)))
    for number, knowledge in enumerate((first, second)):
        save_knowledge(tmp_path / str(number), knowledge, MANIFEST)
    states = [load_knowledge(tmp_path / str(number), MANIFEST).state for number in range(2)]
    assert_equal_states(merge(*states), merge(first.state, second.state))


def test_what_is_kept_is_not_in_memory(tmp_path):
    """Neither when it is written nor after it was read: 8 MiB of codes, less than 3 of memory."""
    layout = Layout("float16", {"a": 4096})
    count = 1024
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((count, 4096)).astype("<f2").view(np.uint8)
    images = Kept(rng.integers(0, 256, (count, 16), np.uint8), np.arange(count) % 2, codes)
    state = add(empty(layout), ["a", "b"], images)[0]
    head = solve(state, Form("dual", 1, 64, 0), ridge=1.0)
    manifest = SimpleNamespace(**{**vars(MANIFEST), "taps": layout.taps})
    tracemalloc.start()
    save_knowledge(tmp_path / "k", Knowledge(state, head, {}, ""), manifest)
    load_knowledge(tmp_path / "k", manifest)
    save_knowledge(tmp_path / "l", load_knowledge(tmp_path / "k", manifest), manifest)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 << 20
    assert (tmp_path / "k").read_bytes() == (tmp_path / "l").read_bytes()


# -- files that are none -------------------------------------------------------------------------------


def answers(path):
    """What is read, None for a UserError; anything else fails the test."""
    try:
        knowledge = load_knowledge(path, MANIFEST)
        contents(knowledge.state)
    except UserError:
        return None
    return knowledge


def test_a_file_that_was_cut_off_is_refused(written):
    path, _ = written
    data = path.read_bytes()
    for size in sorted({*range(0, len(data), 97), *range(0, 64), len(data) - 1}):
        path.write_bytes(data[:size])
        with pytest.raises(UserError):
            load_knowledge(path, MANIFEST)
        with pytest.raises(UserError):
            load_taught(path, MANIFEST)


def test_a_flipped_bit_is_found(written):
    """Except in the spaces after the header, and in how JSON writes a name."""
    path, knowledge = written
    data = path.read_bytes()
    rng = random.Random(0)
    for _ in range(100):
        place = rng.randrange(len(data))
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        found = answers(path)
        if found is not None:
            assert_equal_states(found.state, knowledge.state)
            assert_equal_heads(found.head, knowledge.head)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32), case=st.sampled_from(list(CASES)))
def test_hostile_files_are_refused_or_read(seed, case, tmp_path):
    """Of the file as it is, of its header, and of what it says, the latter with checksums that are right again."""
    path = tmp_path / "k.safetensors"
    save_knowledge(path, knowledge_of(**CASES[case]), MANIFEST)
    rng = random.Random(seed)
    match rng.randrange(4):
        case 0:
            path.write_bytes(mutated_bytes(path.read_bytes(), rng))
        case 1:
            path.write_bytes(mutated_member(path.name, path.read_bytes(), rng))
        case 2:
            rewrite(path, lambda arrays, metadata: mutate_metadata(metadata, rng))
        case 3:
            rewrite(path, lambda arrays, metadata: mutate_array(arrays, rng))
    answers(path)
    with contextlib.suppress(UserError):
        load_taught(path, MANIFEST)
    is_knowledge(path)


def mutate_metadata(metadata, rng):
    key = rng.choice(list(metadata))
    is_json = metadata[key][:1] in ("[", "{")
    metadata[key] = mutated_json(metadata[key].encode(), rng).decode() if is_json else str(rng.choice(JUNK))


def mutate_array(arrays, rng):
    name = rng.choice(list(arrays))
    array = arrays[name]
    match rng.randrange(4):
        case 0:
            del arrays[name]
        case 1:
            arrays[name] = array.reshape(-1)[1:]
        case 2:
            arrays[name] = array[:0]
        case 3 if array.size:
            raw = array.reshape(-1).view(np.uint8)
            raw[: array.itemsize] = rng.choice([0, 127, 255])


def rewrite(path, change):
    """The file with changed (tensors, metadata), and checksums that are right again."""
    arrays, metadata = tensors.decode(path.read_bytes(), "k")
    arrays = {name: array.copy() for name, array in arrays.items()}
    change(arrays, metadata)
    metadata = {key: text for key, text in metadata.items() if "sha256" not in key}
    told = {
        name: array for name, array in arrays.items() if name.startswith(("head.", "familiar.", "adapter:", "trained:"))
    }
    metadata["head_sha256"] = tensors.digest(told, metadata)
    with open(path, "wb") as file:
        tensors.write_with_digest(file, arrays, metadata)


def head_numbers(**changes):
    def change(arrays, metadata):
        metadata["head"] = json.dumps(json.loads(metadata["head"]) | changes)

    return change


def measured_of(**changes):
    measured = {"accuracy": 1, "log_loss": 1, "calibration_error": 1, "confusion": None}
    return head_numbers(measured=measured | changes)


def metadata_of(**changes):
    return lambda arrays, metadata: metadata.update(changes)


def value(name, place, number):
    def change(arrays, metadata):
        arrays[name].flat[place] = number

    return change


def array(name, make):
    return lambda arrays, metadata: arrays.update({name: make(arrays.get(name))})


LIES = {
    "nothing": (lambda arrays, metadata: None, None),
    "another model": (metadata_of(model_digest="d2"), "belongs to another artifact"),
    "other taps": (metadata_of(taps="[]"), "other features"),
    "another version": (metadata_of(format="edge-s2a knowledge 9"), "is not a knowledge file"),
    "other codes": (metadata_of(codes="int8"), "kept.codes"),
    "unknown codes": (metadata_of(codes="int3"), "malformed metadata"),
    "more groups": (metadata_of(folded_groups="4"), "malformed metadata"),
    "no groups": (metadata_of(folded_groups="0"), "folded.digests is missing or unknown"),
    "fewer groups": (metadata_of(folded_groups="1"), "folded.gram"),
    "classes out of order": (metadata_of(classes='["dog", "cat", "b"]'), "malformed metadata"),
    "a class twice": (metadata_of(classes='["cat", "cat", "dog"]'), "malformed metadata"),
    "a class without a name": (metadata_of(classes='["", "cat", "dog"]'), "malformed metadata"),
    "a name that is no text": (metadata_of(classes='["a", "b", "\\ud800"]'), "malformed metadata"),
    "numbers for classes": (metadata_of(classes="[1, 2, 3]"), "malformed metadata"),
    "more classes": (metadata_of(classes='["a", "b", "c", "d"]'), "head.weight"),
    "a record that is no object": (metadata_of(record="[]"), "a record that is no object"),
    "a record that is no JSON": (metadata_of(record="{"), "malformed"),
    "a head of other fields": (metadata_of(head="{}"), "other fields"),
    "a head that is no object": (metadata_of(head="7"), "other fields"),
    "no temperature": (head_numbers(temperature=0), "impossible numbers"),
    "text for lambda": (head_numbers(ridge="1"), "numbers are none"),
    "an infinite lambda": (head_numbers(ridge=float("inf")), "numbers are none"),
    "another form": (head_numbers(kind="cubic"), "impossible numbers"),
    "no groups of the head": (head_numbers(groups=0), "impossible numbers"),
    "another number of images": (array("head.counts", lambda old: old + 1), "a head of 15 images for 12"),
    "negative numbers of images": (array("head.counts", lambda old: -old), "classes without images"),
    "negative confusions": (measured_of(confusion=[[1, 2, 3], [1, 2, 3], [1, 2, -3]]), "impossible confusions"),
    "confusions of other classes": (measured_of(confusion=[[1, 2], [1, 2]]), "impossible confusions"),
    "confusions as text": (measured_of(confusion="no"), "confusions that are no numbers"),
    "scales of 0": (array("familiar.scales", lambda old: old * 0), "deviations below 0"),
    "thresholds that are not finite": (array("familiar.drift", lambda old: old * np.inf), "not finite"),
    "no thresholds": (lambda arrays, metadata: arrays.pop("familiar.drift"), "familiar.drift is missing"),
    "measured otherwise": (head_numbers(measured={"accuracy": 1}), "malformed"),
    "measured as text": (
        head_numbers(measured={"accuracy": "1", "log_loss": 1, "calibration_error": 1, "confusion": None}),
        "what was measured",
    ),
    "weights that are not finite": (value("head.weight", 3, np.nan), "head.weight has values that are not finite"),
    "deviations below 0": (value("head.deviation", 3, -1), "deviations below 0"),
    "sums that are not finite": (value("folded.sums", 0, np.inf), "folded.sums has values that are not finite"),
    "products that are not finite": (value("folded.gram", 0, np.nan), "sums that are not finite"),
    "a label of no class": (value("kept.labels", 0, 3), "labels of no class"),
    "a negative label": (value("folded.labels", 0, -1), "labels of no class"),
    "an image twice": (array("kept.digests", lambda old: old * 0), "an image twice"),
    "fewer labels": (array("kept.labels", lambda old: old[1:]), "7 digests for 6 labels"),
    "fewer codes": (array("kept.codes", lambda old: old[1:]), "6 rows of codes for 7 images"),
    "codes that are not finite": (array("kept.codes", lambda old: old * 0 + 0x7C), "no finite features"),
    "narrower codes": (array("kept.codes", lambda old: old[:, 1:].copy()), "kept.codes"),
    "weights of float64": (array("head.weight", lambda old: old.astype(np.float64)), "head.weight is float64"),
    "weights of another shape": (array("head.weight", lambda old: old.reshape(-1)), "head.weight"),
    "another tensor": (array("more", lambda old: np.zeros(3, np.float32)), "more is missing or unknown"),
    "no weights": (lambda arrays, metadata: arrays.pop("head.weight"), "head.weight is missing"),
    "a part of an adapter": (array("adapter:head.bias", lambda old: np.zeros(3, np.float32)), "a.up is missing"),
    "another adapter": (array("adapter:b", lambda old: np.zeros(3, np.float32)), "adapter:"),
}


@pytest.mark.parametrize(("change", "message"), LIES.values(), ids=LIES)
def test_lies_with_the_right_checksum_are_found(change, message, tmp_path):
    path = tmp_path / "k.safetensors"
    save_knowledge(path, knowledge_of(folded=5), MANIFEST)
    rewrite(path, change)
    if message is None:
        load_knowledge(path, MANIFEST)
        return
    with pytest.raises(UserError, match=message) as caught:
        load_knowledge(path, MANIFEST)
    assert "k.safetensors" in str(caught.value)


def trained_of(**changes):
    return metadata_of(trained=json.dumps({"share": 0.25, "classes": ["dog", "bée", "cat"]} | changes))


LIES_OF_TRAINED = {
    "nothing": (lambda arrays, metadata: None, None),
    "no share": (trained_of(share=0), "an impossible share"),
    "more than all": (trained_of(share=1.5), "an impossible share"),
    "text for a share": (trained_of(share="1"), "an impossible share"),
    "another class": (trained_of(classes=["dog", "bée", "cow"]), "other classes"),
    "fewer classes": (trained_of(classes=["dog", "bée"]), "other classes"),
    "numbers for classes": (trained_of(classes=[1, 2, 3]), "other classes"),
    "other fields": (metadata_of(trained="{}"), "other fields"),
    "no object": (metadata_of(trained="[]"), "other fields"),
    "nothing said of it": (lambda arrays, metadata: metadata.pop("trained"), "malformed"),
    "values that are not finite": (value("trained:a.up", 0, np.nan), "not finite"),
    "a part of it": (lambda arrays, metadata: arrays.pop("trained:a.up"), "a.up is missing"),
    "another shape": (array("trained:a.up", lambda old: old[:1]), "a.up"),
}


@pytest.mark.parametrize(("change", "message"), LIES_OF_TRAINED.values(), ids=LIES_OF_TRAINED)
def test_lies_about_the_trained_adapter_are_found(change, message, tmp_path):
    path = tmp_path / "k.safetensors"
    save_knowledge(path, knowledge_of(trained=TRAINED), MANIFEST)
    rewrite(path, change)
    for read in (load_knowledge, load_taught):
        if message is None:
            read(path, MANIFEST)
            continue
        with pytest.raises(UserError, match=message):
            read(path, MANIFEST)


def test_a_file_without_a_record_says_nothing_of_itself(tmp_path):
    path = tmp_path / "k.safetensors"
    save_knowledge(path, knowledge_of(), MANIFEST)
    rewrite(path, lambda arrays, metadata: metadata.pop("record"))
    assert load_knowledge(path, MANIFEST).record == {}


def test_a_class_of_no_image_is_found(tmp_path):
    path = tmp_path / "k.safetensors"
    save_knowledge(path, knowledge_of(), MANIFEST)
    rewrite(path, array("kept.labels", lambda old: old * 0))
    with pytest.raises(UserError, match="a class without images"):
        load_knowledge(path, MANIFEST)


def test_the_head_is_read_without_what_it_was_learned_from(tmp_path):
    """So damage there is not found, and none of it is read."""
    path = tmp_path / "k.safetensors"
    knowledge = knowledge_of()
    save_knowledge(path, knowledge, MANIFEST)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # a digest: single bytes come last
    path.write_bytes(data)
    assert_equal_heads(load_taught(path, MANIFEST).head, knowledge.head)
    with pytest.raises(UserError, match="its checksum is wrong"):
        load_knowledge(path, MANIFEST)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04" + bytes(100), tensors.encode({"a": np.zeros(3, np.float32)})])
def test_other_files_are_no_knowledge_files(tmp_path, data):
    path = tmp_path / "k.safetensors"
    path.write_bytes(data)
    assert not is_knowledge(path)
    for read in (
        lambda: load_knowledge(path, MANIFEST),
        lambda: load_taught(path, MANIFEST),
        lambda: artifact_of(path),
    ):
        with pytest.raises(UserError, match="safetensors"):
            read()


def test_a_file_that_is_not_there_is_named(tmp_path):
    for read in (
        lambda: load_knowledge(tmp_path / "k", MANIFEST),
        lambda: load_taught(tmp_path / "k", MANIFEST),
        lambda: is_knowledge(tmp_path / "k"),
        lambda: is_knowledge(tmp_path),
        lambda: artifact_of(tmp_path / "k"),
    ):
        with pytest.raises(UserError, match="cannot read"):
            read()
