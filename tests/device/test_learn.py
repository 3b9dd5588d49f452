"""`edge-s2a learn` and `Learner`: what is learned in one pass, again and again.

Classifiers are compared by the probabilities that they give. Two ways to learn the same images differ by the rounding
of their features alone: the engine's sums depend on how many images run at once, by 1e-6, which tips some features into
the next float16 code, 5e-4 of a feature.
"""

import json
import shutil

import numpy as np
import pytest

from edge_s2a import Learner
from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.knowledge import load_knowledge
from edge_s2a.device.data.dataset import open_dataset
from edge_s2a.device.data.pixels import file_digest
from edge_s2a.errors import UserError
from tests.helpers.artifacts import pack
from tests.helpers.commands import assert_refused, run_command, run_here
from tests.helpers.images import samples_of

BUDGET = ["--memory-budget", "4GiB"]  # of this process, which has loaded more than a command would
TOLERANCE = 5e-3


def learn(*arguments):
    return run_here("learn", *arguments, *BUDGET, "--json")


@pytest.fixture(scope="module")
def knowledge(small_artifact, image_folder, tmp_path_factory):
    """What was learned of all training images at once, and its summary."""
    path = tmp_path_factory.mktemp("knowledge") / "K.safetensors"
    return path, learn(small_artifact, "--data", image_folder, "--output", path).json


def probabilities(artifact, knowledge, folder):
    """By image, by class."""
    images = sorted(folder.rglob("*.png"))
    done = run_here("predict", artifact, *images, "--adapter", knowledge, "--top", 9, *BUDGET, "--json")
    return {
        result["image"]: {entry["label"]: entry["probability"] for entry in result["predictions"]}
        for result in done.json["results"]
    }


def assert_alike(artifact, first, second, folder):
    ours, others = probabilities(artifact, first, folder), probabilities(artifact, second, folder)
    assert ours.keys() == others.keys()
    for image, found in ours.items():
        assert found.keys() == others[image].keys()
        assert found == pytest.approx(others[image], abs=TOLERANCE)


def part_of(folder, target, *classes, start=0, end=None):
    """A folder with some images of some classes of another one."""
    for name in classes:
        (target / name).mkdir(parents=True)
        for image in sorted((folder / name).iterdir())[start:end]:
            shutil.copy(image, target / name)
    return target


# -- the command ---------------------------------------------------------------------------------------


def test_one_pass_is_enough(small_artifact, image_folder, knowledge):
    path, summary = knowledge
    assert summary["classes"] == {"blue": 14, "green": 14, "red": 14}
    assert summary["new_images"] == summary["images"] == summary["kept_images"] == 42
    assert summary["left_out_accuracy"] > 0.9
    assert summary["val_accuracy"] == 1
    assert summary["peak_rss_bytes"] > 0
    judged = run_here("eval", small_artifact, "--adapter", path, "--data", image_folder, *BUDGET, "--json").json
    assert judged["accuracy"] == summary["val_accuracy"]
    assert judged["loss"] == pytest.approx(summary["val_loss"], rel=1e-3)
    assert not path.with_name(path.name + ".partial").exists()


def test_an_artifact_without_an_adapter_learns_as_well(image_folder, tmp_path):
    artifact = pack(tmp_path / "none.s2a", adapter="none", labels=None, num_classes=None)
    done = learn(artifact, "--data", image_folder, "--output", tmp_path / "K.safetensors")
    assert done.json["val_accuracy"] == 1


def test_new_images_and_new_classes_are_added(small_artifact, image_folder, knowledge, tmp_path):
    train = image_folder / "train"
    path = tmp_path / "K.safetensors"
    first = part_of(train, tmp_path / "first", "blue", "green", end=9)
    learn(small_artifact, "--data", first, "--output", path)
    rest = part_of(train, tmp_path / "rest", "blue", "green", start=9)
    assert learn(path, "--data", rest).json["new_images"] == 10
    red = part_of(train, tmp_path / "red", "red")
    summary = learn(path, "--data", red).json
    assert summary["classes"] == {"blue": 14, "green": 14, "red": 14}
    assert_alike(small_artifact, path, knowledge[0], image_folder / "val")


def test_an_image_counts_once(small_artifact, image_folder, knowledge, tmp_path):
    path = tmp_path / "K.safetensors"
    shutil.copy(knowledge[0], path)
    again = part_of(image_folder / "train", tmp_path / "again", "red", end=5)
    for image in list((again / "red").iterdir()):
        shutil.copy(image, image.with_name("copy-" + image.name))
    summary = learn(path, "--data", again).json
    assert (summary["new_images"], summary["known_images"]) == (0, 10)
    assert summary["images"] == 42


def test_a_class_and_an_image_are_forgotten(small_artifact, image_folder, knowledge, tmp_path):
    path, anew = tmp_path / "K.safetensors", tmp_path / "anew.safetensors"
    shutil.copy(knowledge[0], path)
    image = sorted((image_folder / "train" / "blue").iterdir())[0]
    digest = file_digest(image).hex()[:12]
    summary = learn(path, "--forget", "red", digest).json
    assert summary["classes"] == {"blue": 13, "green": 14}
    rest = part_of(image_folder / "train", tmp_path / "rest", "green")
    part_of(image_folder / "train", rest, "blue", start=1)
    learn(small_artifact, "--data", rest, "--output", anew)
    assert_alike(small_artifact, path, anew, image_folder / "val")


def test_a_class_gets_another_name_or_joins_another(small_artifact, image_folder, knowledge, tmp_path):
    path = tmp_path / "K.safetensors"
    shutil.copy(knowledge[0], path)
    assert learn(path, "--rename", "blue=azure").json["classes"] == {"azure": 14, "green": 14, "red": 14}
    assert learn(path, "--rename", "azure=green").json["classes"] == {"green": 28, "red": 14}


def test_what_others_learned_is_added(small_artifact, image_folder, knowledge, tmp_path):
    """Two devices that share five images."""
    train = image_folder / "train"
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path, (start, end) in zip(paths, ((0, 9), (4, None)), strict=True):
        folder = part_of(train, tmp_path / path.stem, "blue", "green", "red", start=start, end=end)
        learn(small_artifact, "--data", folder, "--output", path)
    merged = tmp_path / "merged.safetensors"
    summary = learn(paths[0], "--merge", paths[1], "--output", merged).json
    assert summary["images"] == 42
    assert_alike(small_artifact, merged, knowledge[0], image_folder / "val")


@pytest.mark.parametrize("codes", ["float16", "int8"])
def test_what_does_not_fit_the_storage_is_folded_and_counts_all_the_same(
    small_artifact, image_folder, knowledge, tmp_path, codes
):
    whole, small = tmp_path / "whole.safetensors", tmp_path / "small.safetensors"
    summary = learn(small_artifact, "--data", image_folder, "--output", whole, "--codes", codes).json
    row_bytes = load_knowledge(whole, Artifact(small_artifact).manifest).state.layout.row_bytes
    folded = learn(
        small_artifact, "--data", image_folder, "--output", small, "--codes", codes, "--storage", 15 * row_bytes
    ).json
    assert (summary["folded_images"], folded["kept_images"], folded["folded_images"]) == (0, 15, 27)
    assert folded["form"] == "primal"
    # lambda and temperature come from the images that are kept, and may differ: the scores' order may not.
    ours = probabilities(small_artifact, small, image_folder / "val")
    others = probabilities(small_artifact, whole, image_folder / "val")
    assert [max(p, key=p.get) for p in ours.values()] == [max(p, key=p.get) for p in others.values()]


def test_json_has_nothing_else_on_standard_output(small_artifact, image_folder, tmp_path):
    done = run_command(
        "learn", small_artifact, "--data", image_folder, "--output", tmp_path / "K.safetensors", *BUDGET, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 42


# -- bad input -----------------------------------------------------------------------------------------


def test_there_must_be_something_to_learn(small_artifact, image_folder, knowledge, tmp_path):
    assert_refused(learn(small_artifact, "--output", tmp_path / "K"), 2, "--data")
    assert_refused(learn(small_artifact, "--data", image_folder), 2, "--output")
    assert_refused(learn(knowledge[0]), 2, "--forget", "--merge")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--forget", "violet"], ["violet", "blue, green, red"]),
        (["--forget", "00ff00ff"], ["00ff00ff"]),
        (["--rename", "violet=lilac"], ["violet"]),
        (["--rename", "blue"], ["OLD=NEW"]),
        (["--merge", "nothing.safetensors"], ["nothing.safetensors"]),
        (["--forget", "blue", "green", "red"], ["no image is left"]),
    ],
)
def test_wrong_names_change_nothing(knowledge, options, parts):
    before = knowledge[0].read_bytes()
    assert_refused(learn(knowledge[0], *options), 2, *parts)
    assert knowledge[0].read_bytes() == before


def test_knowledge_of_another_artifact_is_refused(knowledge, image_folder, tmp_path):
    other = pack(tmp_path / "other.s2a", seed=1, weight_format="fp16")
    done = run_here("eval", other, "--adapter", knowledge[0], "--data", image_folder, *BUDGET)
    assert_refused(done, 2, str(knowledge[0]), "another artifact")
    moved = tmp_path / "moved.safetensors"
    shutil.copy(knowledge[0], moved)
    assert_refused(learn(moved, "--artifact", tmp_path / "gone.s2a", "--forget", "red"), 2, "gone.s2a")


def test_unknown_needs_a_knowledge_file(small_artifact, image_folder, tmp_path, trained_adapter):
    image = next((image_folder / "val").rglob("*.png"))
    done = run_here("predict", small_artifact, image, "--adapter", trained_adapter, "--unknown", 0.05, *BUDGET)
    assert_refused(done, 2, "--unknown", "knowledge file")


@pytest.fixture(scope="module")
def trained_adapter(small_artifact, image_folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    done = run_here("train", small_artifact, "--data", image_folder, "--output", run, "--epochs", 1, *BUDGET)
    assert done.returncode == 0, done.stderr
    return run / "adapter.safetensors"


def test_a_budget_that_is_too_small_says_what_would_do(small_artifact, image_folder, tmp_path):
    options = ["--data", image_folder, "--output", tmp_path / "K", "--memory-budget", "40MiB"]
    done = run_here("learn", small_artifact, *options)
    assert_refused(done, 3, "--memory-budget")
    assert list(tmp_path.iterdir()) == []


# -- the library ---------------------------------------------------------------------------------------


@pytest.fixture
def images(image_folder):
    """(pixels, name) of the training images."""
    from PIL import Image

    dataset = open_dataset(image_folder, "train", None, None)
    return [(np.asarray(Image.open(path)), dataset.classes[label]) for path, label in samples_of(dataset)]


def test_a_learner_learns_one_image_at_a_time(small_artifact, images):
    at_once, one_by_one = (Learner(small_artifact, memory_budget="4GiB", threads=1) for _ in range(2))
    at_once.learn(images)
    for number, image in enumerate(images):
        assert one_by_one.learn([image]).new == 1
        if number == 20:
            one_by_one.predict(image[0])
    assert one_by_one.classes == ["blue", "green", "red"]
    for pixels, name in images[::5]:
        ours, other = one_by_one.predict(pixels, top=3), at_once.predict(pixels, top=3)
        assert ours[0].label == name
        assert dict(ours) == pytest.approx(dict(other), abs=TOLERANCE)


def test_a_learner_is_saved_and_goes_on(small_artifact, images, tmp_path):
    learner = Learner(small_artifact, memory_budget="4GiB", threads=1)
    learner.learn(images[:30])
    learner.save(tmp_path / "K.safetensors")
    other = Learner(small_artifact, memory_budget="4GiB", threads=1)
    other.load(tmp_path / "K.safetensors")
    assert other.images == 30
    other.learn(images)
    assert (other.images, other.learn(images).known) == (42, 42)
    other.forget("red")
    assert other.classes == ["blue", "green"]
    with pytest.raises(UserError, match="red"):
        other.forget("red")


def test_a_learner_that_knows_nothing_says_so(small_artifact, images):
    learner = Learner(small_artifact, memory_budget="4GiB", threads=1)
    with pytest.raises(UserError, match="nothing was learned"):
        learner.predict(images[0][0])


def test_validation_images_of_what_nothing_teaches_are_refused_before_anything_is_read(
    small_artifact, image_folder, tmp_path
):
    data = part_of(image_folder / "train", tmp_path / "data", "blue", "green")
    done = learn(
        small_artifact, "--data", data, "--val-data", image_folder / "val", "--output", tmp_path / "K.safetensors"
    )
    assert_refused(done, 2, "red", "--data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
