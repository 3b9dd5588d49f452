"""Starts a training from what one pass teaches, and keeps what is trained only where it is better.

`learn_first` learns all training images in one pass, and has the closed form answer for some of them as if it had not
learned these. `try_out` trains for a while without them, and has them judge: if an adapter makes the answers no
better, that is all. Otherwise it is trained from the beginning, on all images, and RUN/best.safetensors becomes a
knowledge file with the adapter beside what was learned; or the adapter, if that is best alone.
"""

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from edge_s2a.artifact.adapter import save_adapter
from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.knowledge import Knowledge, Trained, load_knowledge, save_knowledge
from edge_s2a.artifact.learned import DIGEST_BYTES, State
from edge_s2a.codec.features import decode
from edge_s2a.device.closed_form import state as states
from edge_s2a.device.closed_form.form import Form, choose_form
from edge_s2a.device.closed_form.solve import scores, solve
from edge_s2a.device.data.dataset import Dataset, open_dataset
from edge_s2a.device.data.decoding import UnusableImage
from edge_s2a.device.data.micro_batches import read_batches
from edge_s2a.device.data.pixels import image_digest
from edge_s2a.device.data.split import divided
from edge_s2a.device.evaluate import score
from edge_s2a.device.held_out import (
    Answers,
    Learned,
    accuracy_of,
    choose_places,
    judge,
    load_learned,
    no_answers,
    save_learned,
)
from edge_s2a.device.images.dataset import DatasetImages
from edge_s2a.device.learner import Learner
from edge_s2a.device.learning_run import learn
from edge_s2a.device.load import require_adapter
from edge_s2a.device.memory.available import parse_budget
from edge_s2a.device.memory.budget import RUN_RESERVE_BYTES
from edge_s2a.device.policy.interruption import Interruption
from edge_s2a.device.run_folder import RunFolder
from edge_s2a.device.trainer import Trainer
from edge_s2a.device.training_loop import TrainingLoop, length_of
from edge_s2a.errors import BudgetError, UserError
from edge_s2a.option import common
from edge_s2a.options import LEARNED, MEANS, LearnOptions, TrainOptions
from edge_s2a.run.compared import describe
from edge_s2a.run.knowledge import read_learning
from edge_s2a.run.progress import Progress
from edge_s2a.run.reader import read_summary
from edge_s2a.run.schema import ANSWERS, BEST, LEARNED_FIRST, TRIAL, ComparedFacts
from edge_s2a.system.memory import resident_bytes

DECODED_ROWS = 64
TRIAL_SHARE = 1 / 3  # of the epochs, to try a training out


def is_due(options: TrainOptions) -> bool:
    """Whether a training is to start from what one pass teaches, and that has not been learned yet."""
    return options.start != MEANS and not (is_continued(options) and (Path(options.output) / ANSWERS).exists())


def is_continued(options: TrainOptions) -> bool:
    return options.resume or options.resume_or_start


# -- before the training -------------------------------------------------------------------------------


def learn_first(options: TrainOptions) -> None:
    """Leaves in RUN what one pass over the training images teaches, and what it says of those that are held out.

    Where there are no images to spare, or with "auto" too little memory, it leaves no images to compare by. Raises as
    `learn` does: the same call then goes on from there.
    """
    run = Path(options.output)
    if options.init_adapter is not None:
        raise UserError(f"--init-adapter and --start {options.start} are two ways to begin; leave one of them out")
    if options.val_split:
        raise UserError(
            f"--val-split and --start {options.start} both hold images out; leave --val-split out, the summary has the "
            "accuracy on held-out images"
        )
    manifest = require_adapter(Path(options.artifact))
    dataset = open_dataset(Path(options.data), "train", manifest.labels, manifest.num_classes)
    with RunFolder(run) as folder:
        if not is_continued(options):
            folder.begin()
            with RunFolder(run / TRIAL) as trial:
                trial.begin()
            (run / ANSWERS).unlink(missing_ok=True)
        try:
            learned = learn_and_answer(options, dataset)
        except BudgetError as error:
            if options.start == LEARNED:
                raise
            Progress(1, 0, options.quiet).message(f"training starts without learning in one pass: {error}")
            learned = nothing_to_compare(dataset)
        save_learned(run / ANSWERS, learned)


def nothing_to_compare(dataset: Dataset) -> Learned:
    nothing = no_answers(len(dataset.classes))
    return Learned(sorted(dataset.classes), nothing, nothing)


def learn_and_answer(options: TrainOptions, dataset: Dataset) -> Learned:
    """Writes the knowledge file. Raises BudgetError if there is too little memory."""
    output = Path(options.output) / LEARNED_FIRST
    validation = no_answers(len(dataset.classes))

    def validate(images: Dataset, learner: Learner) -> dict[str, Any]:
        nonlocal validation
        validation = answers_of(images, learner)
        right, loss = score(validation.logits, validation.labels)
        count = len(validation.labels)
        return {"accuracy": right / count if count else None, "loss": loss / count if count else None}

    learn(LearnOptions(**{**common(options, LearnOptions), "source": options.artifact, "output": output}), validate)
    state = load_knowledge(output, Artifact(Path(options.artifact)).manifest).state
    if state.classes != sorted(dataset.classes):  # of one class no image could be read
        return nothing_to_compare(dataset)
    return Learned(state.classes, answers_for_held_out(options, dataset, state), validation)


def answers_of(dataset: Dataset, learner: Learner) -> Answers:
    """What the classifier says of validation images."""
    found = no_answers(len(learner.classes))
    places, logits = [found.places], [found.logits]
    for indices, inputs in read_batches(dataset, range(len(dataset)), learner.collator):
        places.append(np.array(indices))
        logits.append(learner.logits(inputs))
    chosen = np.concatenate(places)
    return Answers(chosen, dataset.labels[chosen].astype(np.int64), np.concatenate(logits))


def answers_for_held_out(options: TrainOptions, dataset: Dataset, state: State) -> Answers:
    """The closed form of the other images answers for those that are held out. Raises BudgetError if there is no memory
    for it."""
    places, digests = readable(dataset, choose_places(dataset.labels, options.seed))
    rest, left_out = states.leave_out(state, digests)
    if rest.classes != state.classes or not len(left_out.labels):
        return no_answers(len(state.classes))
    head = solve(rest, form_within(rest, options))
    logits = [
        scores(head, decode(left_out.codes[start : start + DECODED_ROWS], rest.layout))
        for start in range(0, len(left_out.labels), DECODED_ROWS)
    ]
    place_of = dict(zip((digest.tobytes() for digest in digests), places, strict=True))
    judged = np.array([place_of[digest.tobytes()] for digest in left_out.digests])
    return Answers(judged, left_out.labels, np.concatenate(logits))


def readable(dataset: Dataset, places: np.ndarray) -> tuple[list[int], np.ndarray]:
    """(those of the places whose files can be read, their digests uint8 (images, DIGEST_BYTES))."""
    found: list[int] = []
    digests: list[bytes] = []
    for place in places.tolist():
        with contextlib.suppress(UnusableImage):
            digests.append(image_digest(dataset, place)[:DIGEST_BYTES])
            found.append(place)
    return found, np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)


def form_within(state: State, options: TrainOptions) -> Form:
    """The form for a state, in the memory that is left. Raises BudgetError if there is none."""
    groups = state.folded.groups if state.folded else None
    available_bytes = parse_budget(options.memory_budget) - resident_bytes() - RUN_RESERVE_BYTES
    form = choose_form(len(state.kept.labels), groups, state.layout, len(state.classes), available_bytes)
    if form is None:
        raise BudgetError(
            "the memory budget leaves too little to learn without the images that are held out; give a larger "
            "--memory-budget, or --start means",
            parse_budget(options.memory_budget) - available_bytes,
        )
    return form


# -- the training --------------------------------------------------------------------------------------


def learned_before(options: TrainOptions, classes: list[str], dataset: Dataset) -> Learned | None:
    """What `learn_first` left; None where there is nothing to compare by. Raises UserError where it was of other
    images."""
    if options.start == MEANS:
        return None
    learned = load_learned(Path(options.output) / ANSWERS)
    if not len(learned.held_out.places):
        return None
    places = choose_places(dataset.labels, options.seed)
    if learned.classes != sorted(classes) or not np.isin(learned.held_out.places, places).all():
        raise UserError(f"{options.data} has other images than when {options.output} was begun; begin again")
    return learned


def try_out(
    options: TrainOptions, trainer: Trainer, learned: Learned, dataset: Dataset, interruption: Interruption
) -> ComparedFacts:
    """Trains without the held-out images for a part of the epochs, and says what these say. `dataset` has all images.
    Raises what the training raises; the same call then goes on from there, and when it is done, says so again."""
    path = Path(options.output) / TRIAL
    finished = read_summary(path) if is_continued(options) else None
    if finished is not None and finished.compared is not None:
        return finished.compared
    training, _ = divided(dataset, choose_places(dataset.labels, options.seed))
    rest = DatasetImages(training, trainer.runtime, options.augment, options.seed, options.balance)
    trial = dataclasses.replace(options, epochs=math.ceil(TRIAL_SHARE * options.epochs), output=path, patience=None)
    length = length_of(trial, rest.count)
    progress = Progress(length.total_steps, trainer.plan.budget_bytes, options.quiet)
    progress.message(f"tried out on {rest.count} images; {len(learned.held_out.places)} are held out")
    with RunFolder(path) as folder:
        loop = TrainingLoop(trainer, rest, length, trial, interruption, folder=folder, progress=progress)
        if is_continued(options) and folder.has_checkpoint:
            loop.resume()
        else:
            loop.begin(options.seed)
        loop.run()
        answers, logits = both_answers(trainer, learned.classes, learned.held_out, dataset)
        if not len(logits):
            raise UserError(f"no image of {dataset.where} that was held out can be read any more; check the data")
        verdict = judge(answers, logits)
        one_pass = read_learning(Path(options.output) / LEARNED_FIRST)
        compared = ComparedFacts(
            **verdict._asdict(),
            learned_seconds=one_pass.seconds,
            learned_peak_rss_bytes=one_pass.peak_rss_bytes,
            learned_val_accuracy=one_pass.val_accuracy,
            val_accuracy=one_pass.val_accuracy,
        )
        progress.message(describe(compared))
        loop.finish(compared)
    trainer.restart()
    return compared


def keep_learned(options: TrainOptions, trainer: Trainer) -> None:
    """Makes what was learned RUN/best.safetensors, alone."""
    save_knowledge(Path(options.output) / BEST, knowledge_of(options, trainer), trainer.manifest)


def keep_both(
    options: TrainOptions, trainer: Trainer, compared: ComparedFacts, learned: Learned, validation: Dataset | None
) -> ComparedFacts:
    """Makes the adapter that the trainer has now RUN/best.safetensors, beside what was learned; returns `compared` with
    the accuracy of that on the validation images."""
    adapter, share = trainer.adapter, compared.share or 0.0
    best = Path(options.output) / BEST
    if share == 1:
        save_adapter(best, adapter, trainer.manifest, trainer.classes, trainer.intensity)
    else:
        trained = Trained(adapter, list(trainer.classes), share)
        save_knowledge(best, dataclasses.replace(knowledge_of(options, trainer), trained=trained), trainer.manifest)
    if validation is None:
        return compared
    answers, logits = both_answers(trainer, learned.classes, learned.validation, validation)
    return dataclasses.replace(compared, val_accuracy=accuracy_of(answers, logits, share) if len(logits) else None)


def knowledge_of(options: TrainOptions, trainer: Trainer) -> Knowledge:
    return load_knowledge(Path(options.output) / LEARNED_FIRST, trainer.manifest)


def both_answers(
    trainer: Trainer, classes: list[str], answers: Answers, dataset: Dataset
) -> tuple[Answers, np.ndarray]:
    """(answers of the closed form, logits float32 (images, classes) of the adapter) for the images that can still be
    read, both in the order of `classes`."""
    order = [trainer.classes.index(name) for name in classes]
    logits, is_read = np.zeros(answers.logits.shape, np.float32), np.zeros(len(answers.places), bool)
    row_of = {place: row for row, place in enumerate(answers.places.tolist())}
    for places, inputs in read_batches(dataset, list(row_of), trainer.collator):
        rows = [row_of[place] for place in places]
        logits[rows], is_read[rows] = trainer.runtime.logits(inputs)[:, order], True
    return answers.only(is_read), logits[is_read]
