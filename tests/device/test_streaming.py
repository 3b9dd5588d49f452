"""Frozen weights that are let go once read: the same numbers in less memory."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from edge_s2a.artifact.archive import Artifact
from edge_s2a.device import session
from edge_s2a.device.session import Engine
from edge_s2a.device.streaming import WINDOW_BYTES, address, resident_bytes_of


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


def test_streamed_weights_give_the_same_step_and_leave_nothing(deit_artifact, batch, monkeypatch):
    resident = []
    run_step = session._run_step

    def run_and_note(*arguments):
        result = run_step(*arguments)
        resident.append(resident_of_file(deit_artifact))
        return result

    whole = Engine(Artifact(deit_artifact), 1)
    expected = whole.training_step(*batch)
    expected = expected._replace(gradients={name: array.copy() for name, array in expected.gradients.items()})
    del whole

    engine = Engine(Artifact(deit_artifact), 1, stream_weights=True)
    monkeypatch.setattr(session, "_run_step", run_and_note)
    found = engine.training_step(*batch)
    assert found.loss == expected.loss
    for name, array in expected.gradients.items():
        np.testing.assert_array_equal(found.gradients[name], array)
    assert resident_of_file(deit_artifact) == 0
    assert 0 < max(resident) <= engine.streamed_weight_bytes
    assert engine.streamed_weight_bytes <= engine.weight_bytes


def test_resident_bytes_are_whole_windows_within_the_mapping(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(5 * WINDOW_BYTES))
    with open(path, "rb") as file:
        mapping = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    first = -address(mapping) % WINDOW_BYTES  # where the first window begins
    one = mapping[first + 10 : first + 20]
    assert resident_bytes_of([one], mapping) == WINDOW_BYTES
    assert resident_bytes_of([one, mapping[first + 30 : first + 40]], mapping) == WINDOW_BYTES
    assert resident_bytes_of([one, mapping[first + 2 * WINDOW_BYTES :][:1]], mapping) == 2 * WINDOW_BYTES
    across = mapping[first + WINDOW_BYTES - 5 : first + WINDOW_BYTES + 5]
    assert resident_bytes_of([across], mapping) == 2 * WINDOW_BYTES
    assert resident_bytes_of([mapping], mapping) == len(mapping)
