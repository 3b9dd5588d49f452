"""Learns classes from images that it sees once: no backward pass, no learning rate, new classes at any time."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_s2a.artifact.adapter import copy_into, intensity_of, load_adapter
from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.intensity import Intensity, parse_intensity
from edge_s2a.artifact.knowledge import Knowledge, Trained, load_knowledge, save_knowledge
from edge_s2a.artifact.learned import DIGEST_BYTES, Head, Kept, State
from edge_s2a.artifact.program import TO_LEARN
from edge_s2a.artifact.rows import pick
from edge_s2a.codec.features import Layout, encode
from edge_s2a.device.average import Average
from edge_s2a.device.closed_form import state as states
from edge_s2a.device.closed_form.drift import Drift, Recent
from edge_s2a.device.closed_form.form import choose_form
from edge_s2a.device.closed_form.journal import Journal
from edge_s2a.device.closed_form.solve import scores, solve
from edge_s2a.device.closed_form.unknown import are_unknown
from edge_s2a.device.closed_form.update import Update, update_form
from edge_s2a.device.data.decoding import UnusableImage
from edge_s2a.device.data.intensity import bits_used
from edge_s2a.device.data.known import Read
from edge_s2a.device.data.pixels import file_digest
from edge_s2a.device.engine.base import Inputs
from edge_s2a.device.engine.batches import taps_of
from edge_s2a.device.evaluate import Evaluation, Prediction, likeliest
from edge_s2a.device.images.program import (
    ImageLike,
    LabelledImages,
    Reader,
    items_of,
    name_of,
    pair_of,
    ranges_of_files,
    sequence_of,
    shown,
)
from edge_s2a.device.learning_plan import Expected, LearningPlan, plan_learning, smallest_form
from edge_s2a.device.learning_summary import summary_of
from edge_s2a.device.load import load_planned, measure_loaded, start_engine, within_budget
from edge_s2a.device.memory.available import parse_budget
from edge_s2a.device.memory.budget import MemoryPlan
from edge_s2a.errors import BudgetError, UserError
from edge_s2a.option import constructor
from edge_s2a.options import LearnerOptions
from edge_s2a.run.convert import to_json
from edge_s2a.run.schema import LearningSummary
from edge_s2a.run.times import now_utc
from edge_s2a.run.writer import remove_recent
from edge_s2a.sizes import MIB, format_size
from edge_s2a.system.memory import peak_resident_bytes

# Fewer images are solved for at once as fast, and so many new ones are.
LEAST_UPDATED, MOST_UPDATED = 256, 8
USUAL_CLASSES = 16  # planned for where nothing is known of what will be learned


class Learned(NamedTuple):
    """What `learn` made of the images that it was given."""

    new: int  # learned now
    known: int  # that had been learned before
    skipped: int  # that could not be read


class Learner:
    """Learns from images that the program has, in this process: each is seen once, and the classifier is solved for in
    closed form. Classes come and go at any time; images are forgotten exactly, and what several devices learned is
    added up. The memory budget holds for the whole process, whatever else is in it when the learner is made.

    With `images` a list of (pixels, name of the class):

    >>> learner = Learner(artifact, threads=1)
    >>> learner.learn(images).new == len(images)
    True
    >>> pixels, name = images[0]
    >>> learner.predict(pixels)[0].label == name
    True
    >>> learner.evaluate(images).accuracy > 0.9
    True

    One process has one learner or trainer at a time, and one number of threads.
    """

    @constructor(LearnerOptions)
    def __init__(self, options: LearnerOptions) -> None:
        """Loads an artifact that `pack` wrote. Raises BudgetError, which has the smallest budget that would do, and
        UserError for what is wrong otherwise."""
        self._open(options, None)

    @classmethod
    def expecting(cls, options: LearnerOptions, expected: Expected) -> "Learner":
        """A learner whose memory is planned for what it is going to learn."""
        learner = cls.__new__(cls)
        learner._open(options, expected)
        return learner

    def _open(self, options: LearnerOptions, expected: Expected | None) -> None:
        self.options = options
        self._started = now_utc()
        self.manifest = Artifact(Path(options.artifact)).manifest
        self.layout = Layout(options.codes, self.manifest.taps)
        self.engine_settings = start_engine(options.provider, options.threads)
        self.budget_bytes = parse_budget(options.memory_budget)
        """The budget that was asked for; that of `plan` is smaller where the machine has less."""
        # As many images as features take the largest matrix.
        self._planned = self._plan(expected or Expected(self.layout.width, 0, None, USUAL_CLASSES))
        self.plan = self._planned.memory
        """What the budget allows: `micro_batch_size`, `predicted_peak_bytes`, `parts` and more."""
        self.runtime = load_planned(Path(options.artifact), self.engine_settings, TO_LEARN, self.plan)
        self.engine, self.collator = self.runtime.engine, self.runtime.collator
        self._reader = Reader(self.manifest.preprocessing, [], self.plan.decode_limit_bytes)
        self.intensity = parse_intensity(options.intensity)
        self._adapter: Mapping[str, np.ndarray] = {}
        self._average: Average | None = None
        if options.adapter is not None:
            self._use_adapter(load_adapter(Path(options.adapter), self.manifest)[0])
            self.intensity = self.intensity or intensity_of(Path(options.adapter))
        self._journal = Journal(None, self.layout)
        self._head: Head | None = None  # None: to be solved for when it is needed
        self._previous: Head | None = None  # the last classifier that was solved for
        self._update: Update | None = None
        self.become(states.empty(self.layout))

    def _plan(self, expected: Expected) -> LearningPlan:
        measurement = measure_loaded(Path(self.options.artifact), self.engine_settings, TO_LEARN, expected.image_index)

        plans: dict[int, LearningPlan] = {}

        def plan(budget_bytes: int) -> MemoryPlan:
            plans[budget_bytes] = plan_learning(measurement, self.layout, expected, budget_bytes)
            return plans[budget_bytes].memory

        return plans[within_budget(plan, self.budget_bytes).budget_bytes]

    def _use_adapter(self, tensors: Mapping[str, np.ndarray]) -> None:
        self._adapter = tensors
        if tensors:
            copy_into(self.engine.adapter, tensors)

    def require_intensity(self, intensity: Intensity | None) -> None:
        """Raises UserError if what was learned elsewhere knows other values as black and white."""
        if None not in (intensity, self.intensity) and intensity != self.intensity:
            raise UserError(
                f"what was learned has {intensity} as black and white, not {self.intensity}; leave intensity out"
            )

    def keep_journal(self, path: Path) -> str | None:
        """From now on keeps features in the file `path` until they are saved, and uses those that it holds; says what
        is wrong with it. Raises UserError if it cannot be written."""
        preprocessing = vars(self.manifest.preprocessing)
        identity = json.dumps(
            [self.manifest.model_digest, preprocessing, adapter_identity(self._adapter), self.intensity]
        )
        self._journal = Journal(path, self.layout, identity)
        return self._journal.problem

    def drop_journal(self) -> None:
        """Removes that file, because what it held has been saved."""
        self._journal.remove()

    @property
    def classes(self) -> list[str]:
        """Names of the classes, sorted."""
        return self.state.classes

    @property
    def images(self) -> int:
        """Images that were learned."""
        return int(self.state.counts.sum())

    @property
    def trained(self) -> Trained | None:
        """The adapter that answers beside the closed form: of the knowledge file that was loaded, as long as the
        classes are still those that it was trained for."""
        return None if self._average is None else self._average.trained

    @property
    def intensity(self) -> Intensity | None:
        """What is black and white in images of more than 8 bits; None where nothing tells."""
        return self._reader.intensity

    @intensity.setter
    def intensity(self, value: Intensity | None) -> None:
        self._reader.intensity = self.collator.intensity = value

    @property
    def skipped(self) -> list[str]:
        """Images that could not be read, with the reason, each once."""
        return self._reader.reasons

    # -- learning --------------------------------------------------------------------------------------

    def learn(self, images: LabelledImages) -> Learned:
        """Learns from (image, name of its class), of which each image counts once, however often it comes. A class that
        is new is there from now on. Raises UserError for what is no image.

        The classifier is solved for when it is next needed. Where many images were learned before, a few more only
        update it (edge_s2a.device.closed_form.update), in less than the time of one pass; now and then, and before it
        is saved, it is solved for anew.
        """
        sequence = sequence_of(images)
        if sequence is not None and self.intensity is None and not self.images:
            self.intensity = bits_used(ranges_of_files(sequence, self.plan.decode_limit_bytes))
        return self.learn_reads(self._reads(images))

    def _reads(self, images: LabelledImages) -> Iterator[Read]:
        for item in items_of(images):
            image, label = pair_of(item)
            if isinstance(label, bool) or not isinstance(label, str | int | np.integer):
                raise UserError(f"a label is {shown(label)}; give the name of a class, or a number as its name")
            try:
                yield Read(digest_of(image), str(label), self._reader.pixels(image))
            except UnusableImage as error:
                self._reader.skip(name_of(image), str(error))

    def learn_reads(self, reads: Iterable[Read], on_image: Callable[[int], None] | None = None) -> Learned:
        """The same with images that were read before. on_image: called after each, with their number so far."""
        skipped = len(self.skipped)
        digests: list[bytes] = []
        labels: list[str] = []
        waiting: list[bytes] = []
        for read in reads:
            if read.pixels is not None and not self.is_known(read.digest) and read.digest not in waiting:
                self.collator.add(read.pixels)
                waiting.append(read.digest)
            digests.append(read.digest)
            labels.append(read.label)
            if len(waiting) == len(self.collator.batch):
                self._keep_features(waiting)
            if on_image:
                on_image(len(digests))
        self._keep_features(waiting)
        usable = [place for place, digest in enumerate(digests) if self.is_known(digest)]
        new = self._add([digests[place] for place in usable], [labels[place] for place in usable])
        return Learned(new, len(usable) - new, len(self.skipped) - skipped)

    def is_known(self, digest: bytes) -> bool:
        """Whether the features of an image are there, so that it need not be read again."""
        return self._journal.find(digest) is not None or digest in self._learned

    def _keep_features(self, waiting: list[bytes]) -> None:
        """Computes the features of the images that wait in the collator, and keeps their codes in the journal."""
        if not waiting:
            return
        for digest, features in zip(waiting, self._features(self.collator.inputs()), strict=True):
            try:
                self._journal.append(digest, encode(features[None], self.layout)[0])
            except ValueError as error:
                self._reader.skip(f"image {digest.hex()}", str(error))
        waiting.clear()

    def _add(self, digests: list[bytes], labels: list[str]) -> int:
        """Adds images whose features are known to what was learned; returns how many of them are new."""
        if not digests:
            return 0
        names = sorted(set(labels))
        number = {name: place for place, name in enumerate(names)}
        # Those that the journal does not have were learned before: whatever row stands for them is not read.
        places = np.array([self._journal.find(digest) or 0 for digest in digests])
        rows = self._journal.rows if len(self._journal) else np.zeros((1, self.layout.row_bytes), np.uint8)
        added = Kept(
            np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES),
            np.array([number[label] for label in labels]),
            pick([rows], places),
        )
        before, update = self.state, self._update
        head = self._head
        state, new = states.add(before, names, added)
        self._go_on(states.fold_to(state, int(self.options.storage), self._planned.form.groups))
        self._learned.update(digests)
        if head is not None and before.counts.sum() >= LEAST_UPDATED and 0 < new == len(digests) <= MOST_UPDATED:
            self._update = update or self._begin_updates(before, head)
            self._head = self._updated(added.codes[0 : len(digests)], labels)
        return new

    def _begin_updates(self, state: State, head: Head) -> Update | None:
        """What adds single images to the classifier of `state`; None where there is no memory for it."""
        form = update_form(state, self._planned.solving_bytes)
        return None if form is None else Update(state, form, head, self.options.class_weights)

    def _updated(self, rows: np.ndarray, labels: list[str]) -> Head | None:
        """The classifier with a few images more, rows of codes and names; None where it is to be solved for anew."""
        head = None
        for row, label in zip(rows, labels, strict=True):
            if self._update is None or self._update.is_stale:
                self._update = None
                return None
            head = self._update.add(row, label)
        return head

    def become(self, state: State) -> None:
        """Takes over what was learned; the classifier is then solved for anew when it is needed."""
        self._go_on(state)
        folded = [state.folded.digests] if state.folded else []
        self._learned = {row.tobytes() for digests in (state.kept.digests, *folded) for row in digests}

    def _go_on(self, state: State) -> None:
        self.state = state
        """All that was learned (edge_s2a.artifact.learned)."""
        if self._average is not None and sorted(self._average.trained.classes) != state.classes:
            self._average = None
        self._head = None
        self._update = None  # what `_head` comes from, where single images were added since it was solved

    def forget(self, what: str) -> None:
        """Forgets a class by its name, or else the one image whose SHA-256 begins with these four or more hexadecimal
        digits, exactly as if it had never been learned. Raises UserError where there is none, or where it is folded
        into sums."""
        is_digest = what not in self.classes and re.fullmatch(r"[0-9a-fA-F]{4,}", what)
        self.become((states.forget_image if is_digest else states.forget_class)(self.state, what))

    def rename(self, old: str, new: str) -> None:
        """Gives a class another name; that of another class makes one of both. Raises UserError if there is none."""
        self.become(states.rename(self.state, old, new))

    def merge(self, path: str | os.PathLike[str]) -> None:
        """Adds what another device learned with the same artifact and saved; images that both have seen count once.
        Raises UserError where it does not fit."""
        self.merge_with(load_knowledge(Path(path), self.manifest), path)

    def merge_with(self, other: Knowledge, path: str | os.PathLike[str]) -> None:
        """The same with a file that was read before."""
        if adapter_identity(other.adapter) != adapter_identity(self._adapter):
            raise UserError(
                f"{path} was learned from another trained adapter; merge what was learned from the same one, or from "
                "none"
            )
        self.require_intensity(other.intensity)
        self.intensity = other.intensity or self.intensity
        self.become(states.merge(self.state, other.state))

    # -- use -------------------------------------------------------------------------------------------

    @property
    def head(self) -> Head:
        """The classifier of all that was learned. Raises UserError if that is nothing, or BudgetError if the budget
        leaves too little to solve for it."""
        if self._head is None:
            self._head = self._previous = self._solve()
        return self._head

    def _solve(self) -> Head:
        state = self.state
        groups = state.folded.groups if state.folded else None
        available_bytes = self._planned.solving_bytes
        form = choose_form(len(state.kept.labels), groups, state.layout, len(state.classes), available_bytes)
        if form is None:
            expected = Expected(len(state.kept.labels), 0, groups, len(state.classes))
            least = smallest_form(state.layout, expected).bytes
            needed_bytes = self.plan.budget_bytes + least - available_bytes
            raise BudgetError(
                f"a memory budget of {format_size(self.plan.budget_bytes)} leaves too little to learn {self.images} "
                f"images of {len(self.classes)} classes; give "
                f"{-(-needed_bytes // MIB)}MiB or more",
                needed_bytes,
            )
        return solve(state, form, class_weights=self.options.class_weights, previous=self._previous)

    def predict(self, image: ImageLike, top: int = 1) -> list[Prediction]:
        """Returns the `top` likeliest classes of an image. Raises UserError if it cannot be read."""
        self.collator.add(self._reader.required_pixels(image))
        return likeliest(self.classes, self.logits(self.collator.inputs())[0], top)

    def is_unknown(self, image: ImageLike, rate: float = 0.05) -> bool:
        """Whether an image is unlike all classes that were learned. rate: the share of images of known classes that is
        taken for unknown by mistake."""
        return bool(are_unknown(self.head, self.features(image), rate)[0])

    def features(self, image: ImageLike) -> np.ndarray:
        """float32 (1, features) of an image. Raises UserError if it cannot be read."""
        self.collator.add(self._reader.required_pixels(image))
        return self._features(self.collator.inputs())

    def logits(self, inputs: Inputs) -> np.ndarray:
        """float32 (batch, classes) of a micro-batch: scores whose softmax are the probabilities."""
        learned = scores(self.head, self._features(inputs))
        assert isinstance(inputs, np.ndarray), "taps are of images"
        return learned if self._average is None else self._average.logits(learned, inputs)

    def _features(self, inputs: Inputs) -> np.ndarray:
        assert isinstance(inputs, np.ndarray), "taps are of images"
        return taps_of(self.engine, inputs).features

    def evaluate(self, images: LabelledImages) -> Evaluation:
        """Returns accuracy and loss on labelled images. Raises UserError if none can be read."""
        self._reader.classes = self.classes
        return self._reader.evaluate(images, self.collator, self.logits)

    def drift(self, images: Iterable[ImageLike]) -> Drift | None:
        """Returns how far images, which need no labels, are from those that were learned; None where too few images
        are kept to tell. Raises UserError if none can be read."""
        recent = Recent(self.head)
        for image in images:
            with contextlib.suppress(UserError):
                recent.add(self.features(image))
        if not recent.images:
            raise UserError("no image could be read; give images like those that were learned")
        return recent.drift()

    # -- the knowledge file ----------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a knowledge file, atomically; `load`, `merge` and `--adapter` of edge-s2a's commands read it. Its
        classifier is solved for from all that was learned."""
        if self._update is not None:
            self._head = self._update = None
        self.save_with(Path(path), self.summary())

    def save_with(self, path: Path, summary: LearningSummary) -> None:
        """The same, and it says this of itself. What `predict` saw last is forgotten: it was compared with what the
        file held before."""
        artifact = str(Path(self.options.artifact).resolve())
        knowledge = Knowledge(
            self.state, self.head, self._adapter, artifact, to_json(summary), self.trained, self.intensity
        )
        save_knowledge(path, knowledge, self.manifest)
        remove_recent(path)

    def summary(self) -> LearningSummary:
        """Returns what was learned, how good the classifier is, and what it took so far. Raises as `head` does."""
        return dataclasses.replace(
            summary_of(self.manifest.model, self.state, self.head),
            started=self._started,
            storage_bytes=int(self.options.storage),
            class_weights=self.options.class_weights,
            predicted_peak_bytes=self.plan.predicted_peak_bytes,
            peak_rss_bytes=peak_resident_bytes(),
            budget_bytes=self.plan.budget_bytes,
            micro_batch_size=self.plan.micro_batch_size,
            parts=self.plan.parts,
        )

    def load(self, path: str | os.PathLike[str]) -> None:
        """Goes on from a knowledge file of this artifact, instead of what was learned so far."""
        self.take_over(load_knowledge(Path(path), self.manifest))

    def take_over(self, knowledge: Knowledge) -> None:
        """The same with a file that was read before."""
        self._use_adapter(knowledge.adapter)
        self.require_intensity(knowledge.intensity)
        self.intensity = knowledge.intensity or self.intensity
        if knowledge.state.layout != self.layout:
            self.layout = knowledge.state.layout
            self._journal = Journal(None, self.layout)
        self._average = None
        self.become(knowledge.state)
        self._head = self._previous = knowledge.head
        if knowledge.trained is not None:
            self._average = Average(self.engine, knowledge.trained, self.classes)


def adapter_identity(adapter: Mapping[str, np.ndarray]) -> dict[str, str]:
    """name -> SHA-256 of a trained tensor; empty where features are the pretrained model's."""
    return {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in sorted(adapter.items())}


def digest_of(image: ImageLike) -> bytes:
    """DIGEST_BYTES of the SHA-256 of an image's file, or of its pixels. Raises UnusableImage for a file that cannot be
    read."""
    if isinstance(image, str | os.PathLike):
        try:
            return file_digest(Path(image))[:DIGEST_BYTES]
        except OSError as error:
            raise UnusableImage(f"cannot be read: {error}") from error
    pixels = np.ascontiguousarray(image)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()[:DIGEST_BYTES]
