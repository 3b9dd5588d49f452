"""Holds out some training images, which judge what was trained against what one pass teaches.

The closed form answers for them as if it had never learned them, and they are not trained on; so both answers are
honest, and no validation image is needed for the choice.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_s2a.artifact import tensors
from edge_s2a.artifact.files import atomic_writer, read_bytes
from edge_s2a.artifact.json_text import parse_json
from edge_s2a.artifact.manifest import has_type
from edge_s2a.device.average import averaged
from edge_s2a.device.closed_form.calibration import best_temperature, log_loss
from edge_s2a.device.data.split import stratified
from edge_s2a.errors import UserError

FORMAT = "edge-s2a answers 1"
ONE_OF = 4  # images of a class is held out
MOST_HELD_OUT = 1024  # images; the accuracy of as many is known to 1 point
# Of the trained adapter in the answer. Nothing finer: a few dozen images do not tell, and the adapter that they judge
# was trained on less than the one that will answer.
SHARES = (0.0, 0.5, 1.0)


class Answers(NamedTuple):
    """What the closed form says of images that it has not learned."""

    places: np.ndarray  # int64 (images,), in the dataset
    labels: np.ndarray  # int64 (images,), indices into the sorted classes
    logits: np.ndarray  # float32 (images, classes)

    def only(self, is_meant: np.ndarray) -> "Answers":
        """Those of some images. is_meant: bool (images,)."""
        return Answers(*(array[is_meant] for array in self))


class Learned(NamedTuple):
    """What learning in one pass leaves to the training that follows."""

    classes: list[str]  # sorted
    held_out: Answers  # without these images
    validation: Answers  # of all training images; empty without validation


class Verdict(NamedTuple):
    """What held-out images say of the closed form, of the trained adapter, and of both together."""

    share: float  # of the adapter in the best answer: 0 to leave it out, 1 to take it alone
    images: int
    learned_accuracy: float
    trained_accuracy: float
    accuracy: float  # of the best answer


def choose_places(labels: np.ndarray, seed: int) -> np.ndarray:
    """int64 (images,): the places of the images to hold out, one of ONE_OF of each class, at random. labels: int
    (images,)."""
    return stratified(labels, min(1 / ONE_OF, MOST_HELD_OUT / max(1, len(labels))), seed)


def judge(held: Answers, trained: np.ndarray) -> Verdict:
    """The share of the least log loss, each at the temperature that suits it best: an adapter that was trained with
    label smoothing is less sure than it should be, which says nothing about what it knows.

    trained: float32 (images, classes), logits of the adapter, which was not trained on these images.
    """
    weights = np.full(len(held.labels), 1 / len(held.labels))

    def loss(share: float) -> float:
        logits = averaged(held.logits, trained, share).astype(np.float64)
        return log_loss(logits, held.labels, weights, best_temperature(logits, held.labels, weights))

    share = min(SHARES, key=loss)
    return Verdict(
        share,
        len(held.labels),
        learned_accuracy=accuracy_of(held, trained, 0),
        trained_accuracy=accuracy_of(held, trained, 1),
        accuracy=accuracy_of(held, trained, share),
    )


def accuracy_of(learned: Answers, trained: np.ndarray, share: float) -> float:
    """Of the average of both."""
    return float((averaged(learned.logits, trained, share).argmax(1) == learned.labels).mean())


# -- the file in which one process leaves them to the next ---------------------------------------------


def no_answers(classes: int) -> Answers:
    return Answers(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, classes), np.float32))


def save_learned(path: Path, learned: Learned) -> None:
    """Writes it, atomically. Raises UserError if that is not possible."""
    metadata = {"format": FORMAT, "classes": json.dumps(learned.classes)}
    groups = {"held_out": learned.held_out, "validation": learned.validation}
    arrays = {
        f"{group}.{name}": array for group, answers in groups.items() for name, array in answers._asdict().items()
    }
    with atomic_writer(path) as file:
        tensors.write_with_digest(file, arrays, metadata)


def load_learned(path: Path) -> Learned:
    """Reads it. Raises UserError if the file is not the one that was written."""
    loaded, metadata = tensors.decode(read_bytes(path, "answers"), str(path))
    remedy = "start again without --resume"
    if metadata.get("format") != FORMAT or not tensors.has_its_digest(loaded, metadata):
        raise UserError(f"{path} is damaged; {remedy}")
    try:
        classes = parse_json(metadata["classes"])
        if not has_type(list[str], classes):
            raise ValueError("other classes")
        held_out, validation = (_answers(loaded, group, len(classes)) for group in ("held_out", "validation"))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} was written by another version ({error}); {remedy}") from error
    return Learned(classes, held_out, validation)


def _answers(loaded: dict[str, np.ndarray], group: str, classes: int) -> Answers:
    answers = Answers(*(loaded[f"{group}.{name}"] for name in Answers._fields))
    images = len(answers.places)
    if answers.logits.shape != (images, classes) or not np.isfinite(answers.logits).all():
        raise ValueError("impossible logits")
    if answers.labels.shape != (images,) or not np.isin(answers.labels, np.arange(classes)).all():
        raise ValueError("impossible labels")
    return answers
