"""deploy/flower's pure part: what may be averaged, and where a fleet starts."""

import dataclasses
import sys

import numpy as np
import pytest

from edge_s2a.artifact.archive import ADAPTER, Artifact
from edge_s2a.artifact.tensors import decode
from edge_s2a.errors import UserError
from tests.helpers.artifacts import pack
from tests.helpers.paths import PROJECT

sys.path.insert(0, str(PROJECT / "deploy" / "flower"))
from fleet.adapters import artifact_digest, flatten, merge_starts, unflatten
from fleet.data import training_images, validation_images


@pytest.fixture(scope="module")
def artifact(small_artifact):
    return Artifact(small_artifact)


def test_an_adapter_comes_back_as_it_was(artifact):
    adapter, _ = decode(artifact.read(ADAPTER), "adapter")
    back = unflatten(flatten(adapter), artifact.manifest)
    assert set(back) == set(adapter)
    for name, array in adapter.items():
        np.testing.assert_array_equal(back[name], array)


def test_values_that_do_not_fit_are_refused(artifact):
    count = artifact.manifest.trainable_parameters
    with pytest.raises(UserError, match="--adapter"):
        unflatten(np.zeros(count - 1, np.float32), artifact.manifest)
    with pytest.raises(UserError, match="not finite"):
        unflatten(np.full(count, np.nan, np.float32), artifact.manifest)


def test_the_digest_tells_models_and_adapters_apart_but_not_codes(artifact, tmp_path):
    digest = artifact_digest(artifact.manifest)
    other_labels = dataclasses.replace(artifact.manifest, labels=["one", "three", "two"])
    assert artifact_digest(other_labels) != digest
    other_adapter = Artifact(pack(tmp_path / "lowrank.s2a", adapter="bias+lowrank")).manifest
    assert other_adapter.model_digest == artifact.manifest.model_digest
    assert artifact_digest(other_adapter) != digest
    other_codes = Artifact(pack(tmp_path / "codes.s2a", saved_bits="8")).manifest
    assert artifact_digest(other_codes) == digest


def test_a_class_starts_where_the_devices_that_have_it_say():
    rng = np.random.default_rng(0)
    shapes = {"head.weight": (3, 4), "head.bias": (3,), "lowrank.0.down": (2, 4)}
    initial, first, second = ({name: rng.random(shape, np.float32) for name, shape in shapes.items()} for _ in range(3))
    merged = merge_starts(initial, [first, second], np.array([[30, 0, 0], [10, 5, 0]]), ["head"])
    for name in ("head.weight", "head.bias"):
        np.testing.assert_allclose(merged[name][0], 0.75 * first[name][0] + 0.25 * second[name][0], rtol=1e-6)
        np.testing.assert_array_equal(merged[name][1], second[name][1])
        np.testing.assert_array_equal(merged[name][2], 0 * initial[name][2])
    np.testing.assert_array_equal(merged["lowrank.0.down"], initial["lowrank.0.down"])


def test_a_device_may_lack_classes(artifact, image_folder, tmp_path):
    classes = artifact.manifest.class_names()
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "red").symlink_to(image_folder / split / "red")
    assert {label for _, label in training_images(tmp_path, classes)} == {classes.index("red")}
    assert len(validation_images(tmp_path, classes)) == 4
    assert training_images(tmp_path / "train", classes) == training_images(tmp_path, classes)
    with pytest.raises(UserError, match="no folder val"):
        validation_images(tmp_path / "train", classes)
    (tmp_path / "train" / "mauve").mkdir()
    with pytest.raises(UserError, match="mauve"):
        training_images(tmp_path, classes)
