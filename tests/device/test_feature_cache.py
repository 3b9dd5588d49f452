"""Features of a backbone that nothing trains in, kept from epoch to epoch: the result is the same whatever is kept.

Bit for bit: files and lists of losses are compared whole, without tolerance.
"""

import json
import os

import numpy as np
import pytest

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.manifest import parse_manifest
from edge_s2a.device.data import feature_cache
from edge_s2a.device.data.collate import Collator
from edge_s2a.device.data.dataset import open_dataset
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.device.engine.onnxruntime import OnnxRuntimeEngine
from edge_s2a.errors import UserError
from tests.helpers.artifacts import pack
from tests.helpers.commands import assert_refused, run_command
from tests.helpers.images import write_images
from tests.helpers.interruption import assert_survived, kill_and_resume
from tests.helpers.runs import metrics_of, step_losses
from tests.helpers.systems import files_no_larger_than, not_on_windows

OPTIONS = ["--memory-budget", "400MiB", "--epochs", "3", "--batch-size", "8", "--threads", "1"]
SHAPES = {"a": [1, 5, 7], "b": [3, 100, 400], "c": [1, 64]}


@pytest.fixture(scope="module")
def side_artifact(tmp_path_factory):
    return pack(tmp_path_factory.mktemp("side") / "side.s2a", adapter="side")


@pytest.fixture(scope="module")
def engine(side_artifact):
    return OnnxRuntimeEngine(Artifact(side_artifact), EngineSettings(threads=1))


def train(artifact, images, run, *more, **options):
    done = run_command("train", artifact, "--data", images, "--output", run, *OPTIONS, *more, "--json", **options)
    assert done.returncode == 0, done.stderr
    return done


def result_of(run) -> list:
    val_losses = [line["val_loss"] for line in metrics_of(run) if line["kind"] == "epoch"]
    return [(run / "adapter.safetensors").read_bytes(), step_losses(run), val_losses]


@pytest.fixture(scope="module")
def whole_run(side_artifact, image_folder, tmp_path_factory):
    """A run whose first epoch finds nothing and whose others find everything."""
    run = tmp_path_factory.mktemp("whole") / "run"
    summary = train(side_artifact, image_folder, run).json
    return run, summary


# -- codes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_codes_err_by_half_a_step_of_their_group(scale):
    rng = np.random.default_rng(0)
    shape = SHAPES
    batch = {name: np.zeros((3 * first, *others), np.float32) for name, (first, *others) in shape.items()}
    values = {name: scale * rng.standard_normal(size).astype(np.float32) for name, size in shape.items()}
    codes = feature_cache.encode(values, shape)
    assert len(codes) == feature_cache.code_bytes(shape)
    feature_cache.decode(codes, batch, 1, shape)
    for name, (first, *_) in shape.items():
        decoded = batch[name][first : 2 * first]
        # A step is a 255th of the range; float16 rounds scale and minimum by 2^-11 of themselves, or by 2^-25.
        rounding = 2 * np.abs(values[name]).max() * 2.0**-11 + 256 * 2.0**-25
        bound = np.ptp(values[name]) / 255 / 2 + rounding
        assert np.abs(decoded - values[name]).max() <= bound
        assert not batch[name][:first].any()
        assert not batch[name][2 * first :].any()


# -- what training sees --------------------------------------------------------------------------------


def test_an_image_that_was_seen_leaves_the_backbone_out(engine, side_artifact, image_folder, tmp_path, monkeypatch):
    manifest = Artifact(side_artifact).manifest
    dataset = open_dataset(image_folder, "train", None, 3)
    collator = Collator(engine, np.zeros((4, 3, 32, 32), np.float32), manifest.preprocessing, 1 << 30)
    collator.keep_features(feature_cache.FeatureCache(tmp_path / "cache", manifest, 1 << 20))
    computed = []
    compute = engine.features
    monkeypatch.setattr(engine, "features", lambda image: computed.append(len(image)) or compute(image))

    def inputs(*indices, **augmentation):
        for index in indices:
            collator.add(collator.load(dataset, index, **augmentation))
        return {name: array.copy() for name, array in collator.inputs().items()}

    first = inputs(0, 1, 2)
    assert computed == [1, 1, 1]
    again = inputs(1, 0, 2)
    assert computed == [1, 1, 1]
    for name, shape in manifest.features.items():
        swapped = first[name].reshape(3, *shape)[[1, 0, 2]].reshape(first[name].shape)
        np.testing.assert_array_equal(again[name], swapped)
    seed = next(seed for seed in range(9) if np.random.default_rng((seed, 0)).random() < 0.5)
    mirrored = inputs(0, augment="flip", seed=(seed,))
    assert computed == [1, 1, 1, 1]
    assert any((mirrored[name] != first[name][: len(mirrored[name])]).any() for name in mirrored)


def test_features_beside_others_of_any_number_are_the_same(engine, side_artifact, image_folder, tmp_path):
    manifest = Artifact(side_artifact).manifest
    dataset = open_dataset(image_folder, "train", None, 3)
    found = []
    for size in (1, 3, 8):
        collator = Collator(engine, np.zeros((size, 3, 32, 32), np.float32), manifest.preprocessing, 1 << 30)
        collator.keep_features(feature_cache.FeatureCache(tmp_path / str(size), manifest, 1 << 20))
        for index in range(size):
            collator.add(collator.load(dataset, index))
        found.append([array[: manifest.features[name][0]].copy() for name, array in collator.inputs().items()])
    for others in found[1:]:
        for array, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(array, other)


def test_the_result_is_that_of_exact_features_but_for_8_bits(whole_run, side_artifact, image_folder, tmp_path):
    """Losses within 1e-2: a code errs by 1/510 of its group's range, and the head starts at class means of few images,
    which amplify that."""
    train(side_artifact, image_folder, tmp_path / "run", "--feature-cache", "0")
    assert not (tmp_path / "run" / "features.cache").exists()
    np.testing.assert_allclose(step_losses(tmp_path / "run"), step_losses(whole_run[0]), atol=1e-2)
    assert step_losses(tmp_path / "run") != step_losses(whole_run[0])


@pytest.mark.parametrize("augment", ["none", "flip"])
def test_a_second_run_finds_all_and_ends_alike(augment, side_artifact, image_folder, tmp_path):
    run = tmp_path / "run"
    train(side_artifact, image_folder, run, "--augment", augment)
    before, size = result_of(run), (run / "features.cache").stat().st_size
    done = train(side_artifact, image_folder, run, "--augment", augment)
    assert result_of(run) == before
    assert (run / "features.cache").stat().st_size == size
    assert "features of 0 images" not in done.stderr


def test_a_cache_with_room_for_some_ends_alike_and_keeps_to_its_size(whole_run, side_artifact, image_folder, tmp_path):
    run = tmp_path / "run"
    done = train(side_artifact, image_folder, run, "--feature-cache", "20kB")
    assert 10_000 < (run / "features.cache").stat().st_size <= 20_000
    assert "grows no more" not in done.stderr  # it is full, which is no trouble
    assert result_of(run) == result_of(whole_run[0])


def test_kills_at_random_moments_end_alike(side_artifact, image_folder, whole_run, tmp_path):
    run, summary = whole_run
    counts = kill_and_resume(side_artifact, image_folder, (run, summary["seconds"]), tmp_path, 4, seed=0)
    assert_survived(counts)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2 - 7],
        lambda data: data[:-1000] + bytes(1000),
        lambda data: bytes([data[0] ^ 1]) + data[1:],
        lambda data: data[: len(data) // 3] + b"\xff" + data[len(data) // 3 + 1 :],
        lambda data: b"",
        lambda data: os.urandom(5000),
    ],
    ids=["torn", "zeros at the end", "another magic", "a byte changed", "empty", "noise"],
)
def test_a_damaged_cache_is_as_good_as_none(damage, whole_run, side_artifact, image_folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "features.cache").write_bytes(damage((whole_run[0] / "features.cache").read_bytes()))
    train(side_artifact, image_folder, run)
    assert result_of(run) == result_of(whole_run[0])


def test_the_cache_of_another_model_is_begun_anew(side_artifact, image_folder, whole_run, tmp_path):
    run = tmp_path / "run"
    other = pack(tmp_path / "other.s2a", adapter="side", seed=1)
    train(other, image_folder, run)
    done = train(side_artifact, image_folder, run)
    assert "features of 0 images" in done.stderr
    assert result_of(run) == result_of(whole_run[0])


def test_a_changed_image_is_computed_anew(side_artifact, tmp_path):
    images, run = write_images(tmp_path / "images", 6, seed=0), tmp_path / "run"
    train(side_artifact, images, run)
    size = (run / "features.cache").stat().st_size
    path = sorted((images / "red").iterdir())[0]
    path.write_bytes(sorted((images / "blue").iterdir())[0].read_bytes()[:-1] + b"\0")
    train(side_artifact, images, run)
    grown = (run / "features.cache").stat().st_size - size
    assert grown == feature_cache.PREFIX.size + feature_cache.code_bytes(Artifact(side_artifact).manifest.features)


@not_on_windows
def test_a_full_disk_costs_speed_alone(side_artifact, image_folder, whole_run, tmp_path):
    """No file may grow beyond 16 kB, in which checkpoint and adapters fit."""
    run = tmp_path / "run"
    done = train(side_artifact, image_folder, run, preexec_fn=files_no_larger_than(16_000))
    assert done.stderr.count("features.cache grows no more: the disk is full") == 1
    assert result_of(run) == result_of(whole_run[0])


def test_a_disk_too_full_for_the_header_makes_an_empty_cache(side_artifact, tmp_path, monkeypatch):
    manifest, write_at = Artifact(side_artifact).manifest, feature_cache.write_at
    monkeypatch.setattr(feature_cache, "write_at", lambda file, data, offset: write_at(file, data[:20], offset))
    cache = feature_cache.FeatureCache(tmp_path / "cache", manifest, 1 << 20)
    assert (tmp_path / "cache").stat().st_size == 20
    assert cache.count == 0
    assert cache.find(bytes(32)) is None


def test_prediction_holds_with_a_cache(whole_run):
    summary = whole_run[1]
    assert summary["peak_rss_bytes"] <= summary["predicted_peak_bytes"]


# -- where there is nothing to keep --------------------------------------------------------------------


def test_it_is_refused_where_features_change(small_artifact, side_artifact, image_folder, tmp_path):
    for artifact, more, reason in (
        (small_artifact, [], "the adapter acts in the backbone"),
        (side_artifact, ["--augment", "crop"], "--augment crop shows another part"),
    ):
        command = ["train", artifact, "--data", image_folder, "--output", tmp_path / "run", *OPTIONS]
        assert_refused(run_command(*command, "--feature-cache", "1MiB", *more), 2, "--feature-cache", reason)


@pytest.mark.parametrize(
    "model", [{}, {"model": "resnet10t", "model_kwargs": {}, "image_size": 32}], ids=["vit", "cnn"]
)
def test_the_head_alone_is_trained_from_kept_features(model, image_folder, tmp_path):
    """The backbone runs once per image: in the first epoch. What is kept changes nothing, and `eval` computes the
    accuracy that training found."""
    artifact = pack(tmp_path / "head.s2a", adapter="head", **model)
    assert run_command("check", artifact).returncode == 0
    options = ["--epochs", "2", "--lr", "1e-3"]
    summary = train(artifact, image_folder, tmp_path / "run", *options).json
    train(artifact, image_folder, tmp_path / "bare", *options, "--feature-cache", "0")
    kept, bare = result_of(tmp_path / "run"), result_of(tmp_path / "bare")
    np.testing.assert_allclose(kept[1], bare[1], rtol=0.05)  # 8-bit codes against float32
    assert len(kept[1]) == 2 * 6
    manifest = Artifact(artifact).manifest
    images = 3 * (14 + 4)
    assert feature_cache.FeatureCache(tmp_path / "run" / "features.cache", manifest, 1 << 20).count == images
    done = run_command(
        "eval", artifact, "--adapter", tmp_path / "run" / "adapter.safetensors", "--data", image_folder, "--json"
    )
    assert done.json["accuracy"] == pytest.approx(summary["val_accuracy"], abs=1 / 12 + 1e-6)


@pytest.mark.parametrize("shape", [[1, 1 << 27], [0, 4], [], [1, -5]])
def test_impossible_shapes_of_features_are_refused(side_artifact, shape):
    """Before any memory is taken for them."""
    fields = json.loads(Artifact(side_artifact).manifest.to_json())
    fields["features"]["feature:1"] = shape
    with pytest.raises(UserError, match="malformed manifest"):
        parse_manifest(json.dumps(fields).encode(), "file")


@pytest.mark.parametrize("kinds", [("bias",), ("bias", "side")])
def test_artifacts_whose_features_change_have_none(kinds, tmp_path):
    pack(tmp_path / "a.s2a", adapter="+".join(kinds))
    done = run_command("inspect", tmp_path / "a.s2a", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["feature_bytes_per_image"] == 0
