"""What a program may give as images: anything with a length and places is read again and again, and what is wrong is
named."""

import numpy as np
import pytest

from edge_s2a import Learner, Trainer
from edge_s2a.errors import UserError

OPTIONS = {"threads": 1, "memory_budget": "4GiB"}


@pytest.fixture(scope="module")
def pairs():
    """24 images of three colours, with noise."""
    rng = np.random.default_rng(0)
    images = []
    for number in range(24):
        pixels = rng.integers(0, 80, (32, 32, 3), np.uint8)
        pixels[..., number % 3] += 120
        images.append((pixels, number % 3))
    return images


class MapStyle:
    """What torch calls a map-style dataset; like many, it does not end by itself."""

    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, place):
        return self.pairs[place % len(self.pairs)]


def array_of(pairs):
    array = np.empty((len(pairs), 2), object)
    for row, (pixels, label) in enumerate(pairs):
        array[row, 0], array[row, 1] = pixels, label
    return array


@pytest.fixture
def trainer(small_artifact):
    return Trainer(small_artifact, batch_size=8, lr=5e-3, **OPTIONS)


def test_map_style_data_are_trained_on_as_a_list_is(small_artifact, pairs):
    adapters = []
    for images in (pairs, MapStyle(pairs), array_of(pairs), tuple(pairs)):
        trainer = Trainer(small_artifact, batch_size=8, lr=5e-3, **OPTIONS)
        assert trainer.fit(images, steps=10).step == 10
        adapters.append(trainer.adapter)
    for adapter in adapters[1:]:
        for name, array in adapters[0].items():
            np.testing.assert_array_equal(adapter[name], array)


def test_map_style_data_end_where_they_say(trainer, small_artifact, pairs):
    assert trainer.evaluate(MapStyle(pairs)).images == 24
    del trainer
    learner = Learner(small_artifact, **OPTIONS)
    assert learner.learn(MapStyle(pairs)).new == 24
    assert learner.evaluate(MapStyle([(pixels, str(label)) for pixels, label in pairs])).accuracy > 0.9


def test_an_iterator_that_ends_early_says_how_far_it_came(trainer, pairs):
    with pytest.warns(UserWarning, match="the images ended after 3 of 9 steps"):
        last = trainer.fit(iter(pairs), steps=9)
    assert last.step == 3


def test_labels_of_other_integer_types_are_numbers(trainer, pairs):
    pixels = pairs[0][0]
    assert trainer.step([(pixels, np.int64(1)), (pixels, np.uint8(2))]).images == 2


WRONG_LABELS = [None, 1.5, np.float32(1), np.array([0, 1, 0]), [0, 1, 0], True, 3, -1, "mauve"]


@pytest.mark.parametrize("label", WRONG_LABELS, ids=repr)
def test_what_is_no_label_is_named(trainer, pairs, label):
    before = trainer.adapter
    with pytest.raises(UserError, match=r"label|class"):
        trainer.step([(pairs[0][0], label)])
    for name, array in trainer.adapter.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("label", [None, 1.5, np.array([0, 1, 0]), True], ids=repr)
def test_a_learner_names_it_as_well(small_artifact, pairs, label):
    learner = Learner(small_artifact, **OPTIONS)
    with pytest.raises(UserError, match="a label is"):
        learner.learn([(pairs[0][0], label)])
    assert learner.images == 0


@pytest.mark.parametrize("images", ["photos/red/1.jpg", ["a.png", "b.png"], [("a.png",)], [None], 7], ids=repr)
def test_what_is_no_pair_is_named(trainer, images):
    with pytest.raises(UserError, match="pairs"):
        trainer.step(images)


def test_an_empty_crop_is_skipped_and_counted(trainer, small_artifact, pairs):
    empty = np.zeros((0, 5, 3), np.uint8)
    assert trainer.step([(empty, 0), pairs[0]]).images == 1
    assert trainer.skipped == ["an image: has no pixels: (0, 5, 3)"]
    with pytest.raises(UserError, match="has no pixels"):
        trainer.predict(empty)
    del trainer
    learner = Learner(small_artifact, **OPTIONS)
    learned = learner.learn([(empty, "red"), (pairs[0][0], "red")])
    assert (learned.new, learned.skipped) == (1, 1)


@pytest.mark.parametrize("lr", [float("nan"), float("inf"), -1.0, "fast"], ids=repr)
def test_a_rate_that_is_none_trains_nothing(trainer, pairs, lr):
    with pytest.raises(UserError, match="lr"):
        trainer.step([pairs[0]], lr=lr)
    assert trainer.steps == 0


@pytest.mark.parametrize("name", ["memory_budget", "batch_size", "lr"])
def test_none_is_no_value(small_artifact, name):
    with pytest.raises(UserError, match=f"{name} is None"):
        Trainer(small_artifact, **{name: None})
