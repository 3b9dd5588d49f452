"""Whatever bytes they get, the parsers of files answer with a value or a UserError: found by hypothesis."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_s2a.artifact import program, tensors
from edge_s2a.artifact.archive import PLAN, PROGRAM, Artifact, graph_member
from edge_s2a.artifact.manifest import parse_manifest
from edge_s2a.artifact.onnx_graph import read_onnx_graph
from edge_s2a.errors import UserError
from edge_s2a.plan import lifetimes

FUNCTION_SCOPED = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def artifact(small_artifact):
    return Artifact(small_artifact)


def answers(parse, data: bytes) -> None:
    """read_onnx_graph leaves it to its caller to say which file is wrong, and raises ValueError."""
    with contextlib.suppress(ValueError if parse is read_onnx_graph else UserError):
        parse(data)


def replaced(document, path, value):
    """`document` with `value` at a place that the numbers of `path` lead to."""
    if not path or not isinstance(document, dict | list) or not document:
        return value
    keys = sorted(document) if isinstance(document, dict) else range(len(document))
    key = keys[path[0] % len(keys)]
    changed = document.copy()
    changed[key] = replaced(document[key], path[1:], value)
    return changed


PATHS = st.lists(st.integers(0, 1000), min_size=1, max_size=5)


@FUNCTION_SCOPED
@given(data=st.binary(max_size=300))
def test_any_bytes(data):
    for parse in (
        lambda text: tensors.decode(text, "file"),
        lambda text: parse_manifest(text, "file"),
        lambda text: program.from_json(text, 3, "file"),
        lambda text: lifetimes.from_json(text, "file"),
        read_onnx_graph,
    ):
        answers(parse, data)


@FUNCTION_SCOPED
@given(path=PATHS, value=JSON)
def test_any_value_in_the_manifest(artifact, path, value):
    document = json.loads(artifact.manifest.to_json())
    answers(lambda text: parse_manifest(text, "file"), json.dumps(replaced(document, path, value)).encode())


@FUNCTION_SCOPED
@given(path=PATHS, value=JSON)
def test_any_value_in_program_and_plan(artifact, path, value):
    for member, parse in (
        (PROGRAM, lambda text: program.from_json(text, artifact.graph_count, "file")),
        (PLAN, lambda text: lifetimes.from_json(text, "file")),
    ):
        document = json.loads(artifact.read(member))
        answers(parse, json.dumps(replaced(document, path, value)).encode())


@FUNCTION_SCOPED
@given(path=PATHS, value=JSON)
def test_any_value_in_a_header_of_tensors(path, value):
    data = tensors.encode({"a": np.zeros((2, 3), np.float32), "b": np.zeros(5, np.uint8)}, {"key": "value"})
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(replaced(json.loads(data[8 : 8 + size]), path, value)).encode()
    answers(lambda text: tensors.decode(text, "file"), len(header).to_bytes(8, "little") + header + data[8 + size :])


@FUNCTION_SCOPED
@given(place=st.integers(0, 10**9), value=st.binary(min_size=1, max_size=8))
def test_any_bytes_within_a_graph(artifact, place, value):
    data = bytearray(artifact.read(graph_member(0)))
    place %= len(data)
    data[place : place + len(value)] = value
    answers(read_onnx_graph, bytes(data))


@FUNCTION_SCOPED
@given(
    arrays=st.dictionaries(
        st.text(max_size=8).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(sorted(tensors.NAMES, key=str)), st.lists(st.integers(0, 3), max_size=3)),
        max_size=5,
    ),
    metadata=st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
)
def test_what_is_written_is_read(arrays, metadata):
    """Names and metadata of any kind, empty and zero-dimensional tensors included."""
    written = {
        name: np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
        for name, (dtype, shape) in arrays.items()
    }
    read, read_metadata = tensors.decode(tensors.encode(written, metadata), "file")
    assert read.keys() == written.keys()
    assert read_metadata == metadata
    for name, array in written.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype
