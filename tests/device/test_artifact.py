"""The container and its parsers: what was written is read back in place, what was damaged is refused."""

import dataclasses
import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from edge_s2a.artifact import tensors
from edge_s2a.artifact.archive import ALIGNMENT, MEMBERS, WEIGHTS, Artifact, digests, graph_member, write_archive
from edge_s2a.artifact.files import atomic_writer
from edge_s2a.artifact.manifest import FORMAT_VERSION
from edge_s2a.errors import CheckError, UserError
from tests.helpers.systems import linux_alone

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(3, dtype=np.int8),
    "c": np.array(7, np.int64),
    "d": np.zeros((0, 4), np.float16),
    "e": np.arange(5, dtype=np.uint8),
}


def test_safetensors_agree_with_the_reference_library():
    written = tensors.encode(ARRAYS, {"key": "value"})
    loaded = safetensors.numpy.load(written)
    assert set(loaded) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(loaded[name], array)
    decoded, metadata = tensors.decode(safetensors.numpy.save(ARRAYS, {"key": "value"}), "test")
    assert metadata == {"key": "value"}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(decoded[name], array)
        assert decoded[name].dtype == array.dtype


@pytest.mark.parametrize("seed", range(200))
def test_mutated_safetensors_are_read_or_refused_in_words(seed):
    rng = random.Random(seed)
    data = bytearray(tensors.encode(ARRAYS))
    for _ in range(rng.randrange(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    try:
        decoded, _ = tensors.decode(bytes(data), "test")
    except UserError as error:
        assert "test" in str(error)  # noqa: PT017
    else:
        assert sum(array.nbytes for array in decoded.values()) <= len(data)


def test_members_are_stored_aligned_and_mapped_in_place(small_artifact):
    content = small_artifact.read_bytes()
    with zipfile.ZipFile(small_artifact) as archive:
        assert archive.testzip() is None
        for name in (graph_member(0), *MEMBERS):
            data = archive.read(name)
            assert archive.getinfo(name).compress_type == zipfile.ZIP_STORED
            assert content.find(data) % ALIGNMENT == 0
    mapped = Artifact(small_artifact).map(WEIGHTS)
    assert not mapped.flags.owndata
    assert not mapped.flags.writeable
    arrays, _ = tensors.decode(mapped, "weights")
    assert all(np.shares_memory(array, mapped) for array in arrays.values())
    assert any(name.endswith(".codes") for name in arrays)


@linux_alone
def test_the_engine_reads_weights_where_they_are_mapped(small_artifact):
    from edge_s2a.device.engine.base import EngineSettings
    from edge_s2a.device.engine.onnxruntime import OnnxRuntimeEngine

    artifact = Artifact(small_artifact)
    engine = OnnxRuntimeEngine(artifact, EngineSettings(threads=1))
    names, _ = tensors.decode(artifact.map(WEIGHTS), "weights")
    addresses = {name: engine._inputs[name].data_ptr() for name in names}
    lines = Path("/proc/self/maps").read_text().splitlines()
    ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines if str(small_artifact) in line]
    assert addresses
    for name, address in addresses.items():
        assert any(start <= address < end for start, end in ranges), name


def test_same_input_gives_the_same_bytes(small_artifact, tmp_path):
    pytest.importorskip("torch")
    from edge_s2a.host.pack import pack
    from tests.helpers.artifacts import options_of

    pack(options_of(output=tmp_path / "again.s2a"))
    assert (tmp_path / "again.s2a").read_bytes() == small_artifact.read_bytes()


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.9999])
def test_truncated_files_are_refused(small_artifact, tmp_path, share):
    data = small_artifact.read_bytes()
    path = tmp_path / "cut.s2a"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match="complete"):
        Artifact(path)


@pytest.mark.parametrize("member", [graph_member(0), *MEMBERS])
def test_a_flipped_bit_in_any_member_is_found(small_artifact, tmp_path, member):
    artifact = Artifact(small_artifact)
    offset, size = artifact._extents[member]
    data = bytearray(small_artifact.read_bytes())
    data[offset + size // 2] ^= 1
    path = tmp_path / "flipped.s2a"
    path.write_bytes(data)
    with pytest.raises(CheckError, match=f"checksum of {member}"):
        Artifact(path).read(member)


def test_a_flipped_bit_in_the_manifest_is_found(small_artifact, tmp_path):
    artifact = Artifact(small_artifact)
    offset, _ = artifact._extents["manifest.json"]
    data = bytearray(small_artifact.read_bytes())
    data[offset + 30] ^= 1
    path = tmp_path / "flipped.s2a"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"flipped\.s2a"):
        Artifact(path)


def test_another_format_version_is_refused(small_artifact, tmp_path):
    path = tmp_path / "future.s2a"
    with zipfile.ZipFile(small_artifact) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename == "manifest.json":
                data = data.replace(f'"format_version": {FORMAT_VERSION}'.encode(), b'"format_version": 9')
            target.writestr(entry, data)
    with pytest.raises(UserError, match="format version 9"):
        Artifact(path)


def test_an_artifact_of_the_previous_version_is_refused_for_its_version(small_artifact, tmp_path):
    """Its members have other names: that is not what the user must hear."""
    path = tmp_path / "past.s2a"
    members = dict.fromkeys(("training.onnx", "inference.onnx", WEIGHTS), b"")
    manifest = dataclasses.replace(Artifact(small_artifact).manifest, format_version=2)
    write_archive(path, manifest, members)
    with pytest.raises(UserError, match=f"format version 2, this edge-s2a reads {FORMAT_VERSION}"):
        Artifact(path)


def test_a_missing_graph_is_refused(small_artifact, tmp_path):
    artifact = Artifact(small_artifact)
    members = {name: artifact.read(name) for name in artifact.manifest.members if name != graph_member(0)}
    write_archive(tmp_path / "lacking.s2a", dataclasses.replace(artifact.manifest, members=digests(members)), members)
    with pytest.raises(UserError, match="complete"):
        Artifact(tmp_path / "lacking.s2a")


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_and_fail():
        with atomic_writer(path) as file:
            file.write(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_streamed_and_encoded_tensors_are_the_same():
    file = io.BytesIO()
    tensors.write(file, ARRAYS)
    assert file.getvalue() == tensors.encode(ARRAYS)
