"""Trains the adapter of an artifact: one optimizer step at a time, or a whole training."""

import contextlib
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from edge_s2a.artifact import tensors
from edge_s2a.artifact.adapter import check_shapes, copy_into, intensity_of, load_adapter, save_adapter
from edge_s2a.artifact.archive import ADAPTER
from edge_s2a.artifact.intensity import Intensity, parse_intensity
from edge_s2a.device.data.collate import Prepared
from edge_s2a.device.data.intensity import bits_used
from edge_s2a.device.evaluate import Evaluation, Prediction, likeliest
from edge_s2a.device.images.program import (
    ImageLike,
    Label,
    LabelledImages,
    ProgramImages,
    Reader,
    StreamedImages,
    items_of,
    ranges_of_files,
    sequence_of,
)
from edge_s2a.device.images.protocol import Images
from edge_s2a.device.load import load, start_engine
from edge_s2a.device.memory.available import parse_budget
from edge_s2a.device.memory.index import NO_INDEX, IndexMemory
from edge_s2a.device.optim.accumulate import accumulate
from edge_s2a.device.optim.clipping import clip
from edge_s2a.device.optim.optimizer import OPTIMIZERS, forget
from edge_s2a.device.policy.interruption import Interruption
from edge_s2a.device.run_folder import RunFolder
from edge_s2a.device.start.adapter import start_adapter
from edge_s2a.device.start.head import images_for_means, relative_rates
from edge_s2a.device.training_loop import Length, TrainingLoop, TrainingStep
from edge_s2a.errors import UserError
from edge_s2a.option import constructor
from edge_s2a.options import TrainerOptions

START_SEED = 0  # of the images that `start` reads


class Trainer:
    """Fine-tunes the adapter of an artifact in this process, from images that the program has: a list, a camera, a
    replay buffer. The memory budget holds for the whole process, whatever else is in it when the trainer is made.

    With `images` a list of (pixels, name of the class):

    >>> trainer = Trainer(artifact, batch_size=8, lr=5e-3, threads=1)
    >>> last = trainer.fit(images, steps=20)
    >>> last.step, last.images
    (20, 8)
    >>> trainer.evaluate(images).accuracy > 0.9
    True
    >>> pixels, name = images[0]
    >>> trainer.predict(pixels)[0].label == name
    True

    One process has one trainer at a time, and one number of threads.
    """

    @constructor(TrainerOptions)
    def __init__(self, options: TrainerOptions) -> None:
        """Loads an artifact that `pack` wrote. Raises BudgetError, which has the smallest budget that would do, and
        UserError for what is wrong otherwise."""
        self._open(options, NO_INDEX)

    @classmethod
    def expecting(cls, options: TrainerOptions, index: IndexMemory) -> "Trainer":
        """A trainer whose memory is planned for what is kept of its images."""
        trainer = cls.__new__(cls)
        trainer._open(options, index)
        return trainer

    def _open(self, options: TrainerOptions, index: IndexMemory) -> None:
        self.options = options
        self.engine_settings = start_engine(options.provider, options.threads)
        self.budget_bytes = parse_budget(options.memory_budget)
        """The budget that was asked for; that of `plan` is smaller where the machine has less."""
        self.runtime = load(
            Path(options.artifact),
            self.budget_bytes,
            options.batch_size,
            self.engine_settings,
            options.optimizer,
            index,
        )
        self.engine, self.collator = self.runtime.engine, self.runtime.collator
        self.manifest = self.runtime.artifact.manifest
        self.plan = self.runtime.plan
        """What the budget allows: `micro_batch_size`, `predicted_peak_bytes`, `parts` and more."""
        self.steps = 0
        """Optimizer steps so far."""
        self.optimizer = OPTIMIZERS[options.optimizer](
            self.engine.adapter,
            options.weight_decay,
            relative_rates(self.manifest.head, options.optimizer, options.lr),
        )
        self.gradients = {name: np.zeros_like(array) for name, array in self.engine.adapter.items()}
        self._reader = Reader(
            self.manifest.preprocessing, self.manifest.class_names(options.classes), self.plan.decode_limit_bytes
        )
        self.intensity = parse_intensity(options.intensity)
        self.class_weights: np.ndarray | None = None
        """float32 (classes,): factors on the loss of an image; None for none. `fit` sets it as the options say."""
        self._rng = np.random.default_rng(options.seed)
        self.is_fresh = True  # nothing has been trained, started or loaded yet
        self.best_adapter: dict[str, np.ndarray] = {}
        """The best adapter of the last `fit`."""
        self._loop: TrainingLoop | None = None

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in order of their numbers."""
        return self._reader.classes

    @classes.setter
    def classes(self, names: list[str]) -> None:
        self._reader.classes = names

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

    # -- training --------------------------------------------------------------------------------------

    def fit(
        self,
        images: LabelledImages,
        *,
        steps: int,
        warmup_steps: int = 0,
        validation: Sequence[tuple[ImageLike, Label]] | None = None,
        output: str | os.PathLike[str] | None = None,
        resume: bool = False,
        on_step: Callable[[TrainingStep], None] | None = None,
    ) -> TrainingStep | None:
        """Makes at most `steps` optimizer steps, the learning rate falling over them from its peak as half a cosine,
        after a linear warm-up. Returns the last step, None if no image could be read.

        A sequence, or what else has a length and places as torch's map-style datasets do, is read again and again, each
        time in another order; before the first step of a new adapter, `start` gets it. Any other iterable is read once,
        in its order; where it ends early, a warning says how far the training came.

        validation: evaluated after each pass over a sequence; `best_adapter` is then the best by its accuracy, without
        it the best by training accuracy. output: a folder that gets what `edge-s2a train` leaves in RUN, checkpoints
        included. resume: continues from there; with the same images and options a new trainer comes to the adapter of
        a training that nothing disturbed, bit for bit. on_step: called after each step; `stop` ends the training there.

        The policies of `edge-s2a train` hold: the training goes back to its best adapter where its numbers run away,
        rests while the device is hot, and ends a process that hangs. Raises UserError for images that are wrong,
        MemoryPressure where the machine no longer has the memory that was planned (with a checkpoint in `output`, from
        which a trainer in a fresh process continues within the budget that the error names), and KeyboardInterrupt
        when told to stop.
        """
        self.best_adapter = {}  # frees the one of an earlier training
        taken: list[TrainingStep] = []

        def note(step: TrainingStep, _: object) -> None:
            taken[:] = [step]
            if on_step:
                on_step(step)

        with contextlib.ExitStack() as stack:
            stack.callback(self._forget_loop)
            interruption = stack.enter_context(Interruption())
            folder = None if output is None else stack.enter_context(RunFolder(Path(output)))
            # What a fresh trainer resumes must not depend on what this one has drawn before.
            rng = self._rng if folder is None else np.random.default_rng(self.options.seed)
            self._loop = loop = TrainingLoop(
                self,
                self._source(images, rng),
                Length(steps, warmup_steps, steps=steps),
                self.options,
                interruption,
                folder=folder,
                validation=None if validation is None else self._source(validation, rng),
                on_step=note,
            )
            if resume:
                loop.resume()
            else:
                loop.begin(START_SEED)
            loop.run()
            loop.finish()
            self.best_adapter = loop.best
            is_short = loop.position.step < steps and not loop.is_stopped
            if is_short and isinstance(loop.images, StreamedImages):
                warnings.warn(
                    f"the images ended after {loop.position.step} of {steps} steps; give a sequence, which is read "
                    "again and again",
                    stacklevel=2,
                )
        return taken[0] if taken else None

    def _forget_loop(self) -> None:
        """Frees what a training had: its images are the program's."""
        self._loop = None

    def stop(self) -> None:
        """Called by `on_step`: makes this step the last."""
        if self._loop is not None:
            self._loop.stop()

    def step(self, images: LabelledImages, lr: float | None = None) -> TrainingStep:
        """Makes one optimizer step with the mean gradient of all `images`, at most batch_size, at the rate `lr`, by
        default the peak. Raises UserError if none can be read. Policies act in `fit` alone."""
        images = list(items_of(images))
        if len(images) > self.options.batch_size:
            raise UserError(f"{len(images)} images are more than the batch_size of {self.options.batch_size}")
        if lr is not None and not (isinstance(lr, int | float) and 0 <= lr < math.inf):
            raise UserError(f"lr: {lr!r} is not a learning rate; give a number from 0 on")
        step = self.step_prepared(self._reader.readable(images), self.options.lr if lr is None else lr)
        if step is None:
            raise UserError(f"a step needs images, and had none that can be read; skipped: {self.skipped[-3:]}")
        return step

    def step_prepared(self, images: Iterator[tuple[int, Prepared]], lr: float) -> TrainingStep | None:
        """Makes one optimizer step from at most batch_size of (label, image as `collator` takes it); None if there are
        none. Where loss or gradient are not finite, nothing is updated."""
        start_s = time.monotonic()
        result = accumulate(
            self.collator,
            images,
            self.gradients,
            self.options.batch_size,
            self.options.label_smoothing,
            self.class_weights,
        )
        if not result.images:
            return None
        self.steps += 1
        self.is_fresh = False
        if result.is_finite:
            clip(self.gradients, result.gradient_norm, self.options.clip_norm)
            self.optimizer.step(self.gradients, lr)
        return TrainingStep(
            self.steps, result.loss, result.correct / result.images, lr if result.is_finite else 0.0,
            result.gradient_norm, result.images, time.monotonic() - start_s,
        )  # fmt: skip

    def start(self, images: Sequence[tuple[ImageLike, Label]]) -> None:
        """Sets the head to the class means of the features of at most 32 images per class, and low-rank maps to the
        directions of their gradient: where few images lead far (device/start). Raises UserError where there are
        none."""
        self.start_from(self._source(images, self._rng), START_SEED)

    def start_from(self, images: Images, seed: int) -> int | None:
        """Starts the adapter from images chosen by `seed`; returns how many were read, None where the head cannot
        start so."""
        assert images.labels is not None
        chosen = images_for_means(images.labels, seed)
        options = self.options
        count = start_adapter(
            self.engine, self.manifest, lambda: images.batches(chosen.tolist()), self.gradients,
            options.label_smoothing, options.batch_size,
        )  # fmt: skip
        self.is_fresh = count == 0
        return count

    def _source(self, images: LabelledImages, rng: np.random.Generator) -> Images:
        sequence = sequence_of(images)
        if sequence is None:
            return StreamedImages(images, self._reader)
        if not len(sequence):
            raise UserError("there are no images to train on; give at least one")
        if self.intensity is None:
            self.intensity = bits_used(ranges_of_files(sequence, self.plan.decode_limit_bytes))
        return ProgramImages(sequence, self._reader, self.runtime, rng, self.options.batch_size)

    # -- use -------------------------------------------------------------------------------------------

    def predict(self, image: ImageLike, top: int = 1) -> list[Prediction]:
        """Returns the `top` likeliest classes of an image. Raises UserError if it cannot be read."""
        self.collator.add(self._reader.required_pixels(image))
        return likeliest(self.classes, self.runtime.logits(self.collator.inputs())[0], top)

    def evaluate(self, images: LabelledImages) -> Evaluation:
        """Returns accuracy and loss on labelled images. Raises UserError if none can be read."""
        return self._reader.evaluate(images, self.collator, self.runtime.logits)

    # -- the adapter -----------------------------------------------------------------------------------

    @property
    def adapter(self) -> dict[str, np.ndarray]:
        """A copy of what is trained, float32 by name. May be set, to tensors of the same names and shapes; what the
        optimizer remembers is then forgotten."""
        return {name: array.copy() for name, array in self.engine.adapter.items()}

    @adapter.setter
    def adapter(self, values: dict[str, np.ndarray]) -> None:
        check_shapes(values, self.manifest, "adapter")
        copy_into(self.engine.adapter, values)
        forget(self.optimizer)
        self.is_fresh = False

    def restart(self) -> None:
        """Goes back to the adapter that the artifact came with, as if nothing had been trained."""
        where = f"{ADAPTER} of {self.runtime.artifact.path}"
        self.adapter = tensors.decode(self.runtime.artifact.read(ADAPTER), where)[0]
        self.steps, self.is_fresh = 0, True

    def load(self, path: str | os.PathLike[str]) -> None:
        """Takes over an adapter file of this artifact, and the names of its classes."""
        self.adapter, self.classes = load_adapter(Path(path), self.manifest)
        self.intensity = intensity_of(Path(path)) or self.intensity

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the adapter, atomically; `load`, `edge-s2a eval` and `predict` read it."""
        save_adapter(Path(path), self.engine.adapter, self.manifest, self.classes, self.intensity)
