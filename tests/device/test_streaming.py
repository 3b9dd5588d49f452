"""Frozen weights that are read call by call: the same numbers in the memory of one call's weights."""

from pathlib import Path

import numpy as np
import pytest

from edge_s2a.artifact.archive import WEIGHTS, Artifact
from edge_s2a.artifact.program import Call
from edge_s2a.artifact.tensors import decode
from edge_s2a.device.engine import onnxruntime as session
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.device.engine.onnxruntime import OnnxRuntimeEngine
from edge_s2a.device.engine.streaming import ALIGNMENT, WeightStream, streamed_bytes
from edge_s2a.errors import UserError
from tests.helpers.systems import linux_alone


def resident_of_file(path: Path) -> int:
    """Bytes of this process's resident memory that are mapped from the file at `path`, as the kernel counts them."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.fixture(scope="module")
def batch(deit_artifact):
    height, width = Artifact(deit_artifact).manifest.preprocessing.image_size
    image = np.random.default_rng(0).standard_normal((1, 3, height, width), np.float32)
    return image, np.eye(5, dtype=np.float32)[:1]


@linux_alone
def test_streamed_weights_give_the_same_step_and_nothing_of_the_file_is_mapped(deit_artifact, batch, monkeypatch):
    resident = []
    run_step = session._run_step

    def run_and_note(*arguments):
        result = run_step(*arguments)
        resident.append(resident_of_file(deit_artifact))
        return result

    whole = OnnxRuntimeEngine(Artifact(deit_artifact), EngineSettings(threads=1))
    expected = whole.training_step(*batch)
    expected = expected._replace(gradients={name: array.copy() for name, array in expected.gradients.items()})
    del whole

    engine = OnnxRuntimeEngine(Artifact(deit_artifact), EngineSettings(threads=1), stream_weights=True)
    monkeypatch.setattr(session, "_run_step", run_and_note)
    found = engine.training_step(*batch)
    assert found.loss == expected.loss
    for name, array in expected.gradients.items():
        np.testing.assert_array_equal(found.gradients[name], array)
    assert max(resident) == 0
    assert 0 < engine.streamed_weight_bytes < engine.weight_bytes / 2


def test_the_buffer_holds_exactly_the_weights_of_the_call(deit_artifact):
    artifact = Artifact(deit_artifact)
    mapping = artifact.map(WEIGHTS)
    weights, _ = decode(mapping, "weights")
    names = list(weights)
    calls = [Call(0, names[:3], []), Call(0, [*names[1:7], "image", names[1]], [])]
    stream = WeightStream(artifact, weights, mapping, calls)
    for call in calls:
        placed = stream.place(call)
        stream.read(placed)
        assert {weight.name for weight in placed} == set(call.inputs) - {"image"}
        for weight in placed:
            assert weight.array.dtype == weights[weight.name].dtype
            np.testing.assert_array_equal(weight.array, weights[weight.name])
        total = sum(weight.array.nbytes for weight in placed)
        assert total <= streamed_bytes(weights, call) < total + ALIGNMENT * len(placed)


def test_a_file_that_became_shorter_is_one_clear_error(deit_artifact, tmp_path, batch):
    path = tmp_path / "model.s2a"
    path.write_bytes(deit_artifact.read_bytes())
    engine = OnnxRuntimeEngine(Artifact(path), EngineSettings(threads=1), stream_weights=True)
    with open(path, "r+b") as file:
        file.truncate(4096)
    with pytest.raises(UserError, match="has become shorter"):
        engine.training_step(*batch)
