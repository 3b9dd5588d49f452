"""The device side as a library: `Trainer` for images that a program has, `train` for folders."""

import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from edge_s2a.artifact.adapter import check_shapes, load_adapter, save_adapter
from edge_s2a.device import training_run as trainer
from edge_s2a.device.data.dataset import UnusableImage, as_rgb, read_image, resize_and_crop
from edge_s2a.device.engine.base import Inputs
from edge_s2a.device.engine.batches import logits_of
from edge_s2a.device.engine.load import load, plan_memory, start_engine
from edge_s2a.device.evaluate import log_softmax, score
from edge_s2a.device.memory.available import parse_budget
from edge_s2a.device.optim.accumulate import accumulate
from edge_s2a.device.optim.optimizer import OPTIMIZERS, forget
from edge_s2a.device.optim.schedule import learning_rate
from edge_s2a.device.policy.guard import clip
from edge_s2a.device.start.adapter import start_adapter
from edge_s2a.device.start.head import images_for_means, relative_rates
from edge_s2a.errors import UserError
from edge_s2a.sizes import parse_size

__all__ = ["Evaluation", "Prediction", "Trainer", "TrainingStep", "plan_memory", "train"]

ImageLike = str | os.PathLike | Image.Image | np.ndarray
"""A file, a Pillow image, or pixels uint8 (height, width, 3) in RGB."""
Label = int | str
"""The number of a class, from 0, or its name."""


class TrainingStep(NamedTuple):
    """One optimizer step, as `Trainer` reports it."""

    step: int  # from 1, over the life of the trainer
    loss: float  # mean over the batch before the update, with label smoothing
    accuracy: float  # share of the batch whose likeliest class was right
    learning_rate: float  # 0 where loss or gradient were not finite: then nothing was updated
    gradient_norm: float
    images: int  # in the batch
    seconds: float


class Evaluation(NamedTuple):
    """What an adapter is worth on labelled images."""

    accuracy: float  # share of images whose likeliest class is right
    loss: float  # mean cross-entropy, without label smoothing
    images: int


class Prediction(NamedTuple):
    """A class of an image."""

    label: str
    probability: float


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

    def __init__(
        self,
        artifact: str | os.PathLike,
        *,
        memory_budget: str | int = "auto",
        batch_size: int = 16,
        lr: float = 2e-3,
        optimizer: str = "adamw",
        weight_decay: float = 0.01,
        label_smoothing: float = 0.1,
        clip_norm: float = math.inf,
        classes: Sequence[str] | None = None,
        seed: int = 0,
        threads: int | None = None,
        provider: str = "cpu",
    ):
        """artifact: a file that `pack` wrote. memory_budget: bytes, a size as "192MiB", or "auto", what machine and
        cgroup leave. batch_size: images an optimizer step, run in as few micro-batches as the budget allows.
        lr: peak learning rate. optimizer: "adamw" or "sgd". weight_decay: of matrices. clip_norm: larger gradients are
        scaled to it. classes: names, where the artifact has none. seed: of the order of images. threads: of the
        engine, by default the physical cores. provider: "cpu", "cuda" or "tensorrt".

        Raises BudgetError, which has the smallest budget that would do, and UserError for what is wrong otherwise.
        """
        if optimizer not in OPTIMIZERS:
            raise UserError(f"optimizer {optimizer!r} is unknown; choose one of {', '.join(OPTIMIZERS)}")
        if batch_size < 1 or not lr > 0:
            raise UserError(f"batch_size {batch_size} and lr {lr} must be positive")
        engine_settings = start_engine(provider, threads)
        budget_bytes = parse_budget(memory_budget) if isinstance(memory_budget, str) else memory_budget
        self._runtime = load(Path(artifact), budget_bytes, batch_size, engine_settings, optimizer)
        self._engine, self._collator = self._runtime.engine, self._runtime.collator
        self._manifest = manifest = self._runtime.artifact.manifest
        self.plan = self._runtime.plan
        """What the budget allows: `micro_batch_size`, `predicted_peak_bytes`, `parts` and more."""
        self.classes = manifest.class_names(classes)
        """Names of the classes, in order of their numbers."""
        self.skipped: list[str] = []
        """Images that could not be read, with the reason, each once."""
        self.steps = 0
        """Optimizer steps so far."""
        self._batch_size, self._lr = batch_size, lr
        self._smoothing, self._clip_norm = label_smoothing, clip_norm
        self._optimizer = OPTIMIZERS[optimizer](
            self._engine.adapter, weight_decay, relative_rates(manifest.head, optimizer, lr)
        )
        self._gradients = {name: np.zeros_like(array) for name, array in self._engine.adapter.items()}
        self._rng = np.random.default_rng(seed)
        self._is_fresh = True
        self._is_stopped = False

    # -- training --------------------------------------------------------------------------------------

    def fit(
        self,
        images: Iterable[tuple[ImageLike, Label]],
        *,
        steps: int,
        warmup_steps: int = 0,
        on_step: Callable[[TrainingStep], None] | None = None,
    ) -> TrainingStep | None:
        """At most `steps` optimizer steps, the learning rate falling over them from its peak as half a cosine, after a
        linear warm-up. Returns the last step, None where no image could be read. Raises UserError where a sequence is
        empty.

        A sequence is read again and again, each time in another order; before the first step of a new adapter, `start`
        gets it. Any other iterable is read once, in its order, and may end early. on_step: called after each step;
        `stop` ends the training there.
        """
        self._is_stopped = False
        if isinstance(images, Sequence):
            _require(images)
            if self._is_fresh:
                self.start(images)
            source = self._again_and_again(images)
        else:
            source = self._prepared(images)
        last = None
        for number in range(steps):
            lr = learning_rate(number, self._lr, warmup_steps, steps)
            step = self._step(itertools.islice(source, self._batch_size), lr)
            if step is None:
                break
            last = step
            if on_step:
                on_step(step)
            if self._is_stopped:
                break
        return last

    def stop(self) -> None:
        """Called by `on_step`: makes this step the last."""
        self._is_stopped = True

    def step(self, images: Iterable[tuple[ImageLike, Label]], lr: float | None = None) -> TrainingStep:
        """One optimizer step with the mean gradient of all `images`, at most batch_size, at the rate `lr`, by default
        the peak. Raises UserError if none can be read."""
        images = list(images)
        if len(images) > self._batch_size:
            raise UserError(f"{len(images)} images are more than the batch_size of {self._batch_size}")
        step = self._step(self._prepared(images), self._lr if lr is None else lr)
        if step is None:
            raise UserError(f"a step needs images, and had none that can be read; skipped: {self.skipped[-3:]}")
        return step

    def start(self, images: Sequence[tuple[ImageLike, Label]]) -> None:
        """Sets the head to the class means of the features of at most 32 images a class, and low-rank maps to the
        directions of their gradient: where few images lead far (device/start). Raises UserError
        where there are none."""
        _require(images)
        labels = np.array([self._label(label) for _, label in images])
        chosen = [images[index] for index in images_for_means(labels, 0)]

        def batches() -> Iterator[tuple[Inputs, np.ndarray]]:
            return self._batches(iter(chosen))

        count = start_adapter(self._engine, self._manifest, batches, self._gradients, self._smoothing, self._batch_size)
        self._is_fresh = count == 0

    def _step(self, images: Iterator[tuple[int, np.ndarray]], lr: float) -> TrainingStep | None:
        start_s = time.monotonic()
        result = accumulate(self._runtime, images, self._gradients, self._batch_size, self._smoothing)
        if not result.count:
            return None
        self.steps += 1
        self._is_fresh = False
        if result.is_finite:
            clip(self._gradients, result.gradient_norm, self._clip_norm)
            self._optimizer.step(self._gradients, lr)
        return TrainingStep(
            self.steps, result.loss, result.correct / result.count, lr if result.is_finite else 0.0,
            result.gradient_norm, result.count, time.monotonic() - start_s,
        )  # fmt: skip

    # -- use -------------------------------------------------------------------------------------------

    def predict(self, image: ImageLike, top: int = 1) -> list[Prediction]:
        """The `top` likeliest classes of an image. Raises UserError if it cannot be read."""
        try:
            pixels = self._pixels(image)
        except UnusableImage as error:
            raise UserError(_reason(image, error)) from error
        self._collator.add(pixels)
        probabilities = np.exp(log_softmax(logits_of(self._engine, self._collator.inputs())))[0]
        return [Prediction(self.classes[k], float(probabilities[k])) for k in np.argsort(-probabilities)[:top]]

    def evaluate(self, images: Iterable[tuple[ImageLike, Label]]) -> Evaluation:
        """Raises UserError if no image can be read."""
        correct, loss, count = 0, 0.0, 0
        for inputs, labels in self._batches(iter(images)):
            right, loss_sum = score(logits_of(self._engine, inputs), labels)
            correct, loss, count = correct + right, loss + loss_sum, count + len(labels)
        if not count:
            raise UserError(f"no image could be read; skipped: {self.skipped[-3:]}")
        return Evaluation(correct / count, loss / count, count)

    # -- the adapter -----------------------------------------------------------------------------------

    @property
    def adapter(self) -> dict[str, np.ndarray]:
        """A copy of what is trained, float32 by name. May be set, to tensors of the same names and shapes; what the
        optimizer remembers is then forgotten."""
        return {name: array.copy() for name, array in self._engine.adapter.items()}

    @adapter.setter
    def adapter(self, tensors: dict[str, np.ndarray]) -> None:
        check_shapes(tensors, self._manifest, "adapter")
        for name, array in self._engine.adapter.items():
            array[...] = tensors[name]
        forget(self._optimizer)
        self._is_fresh = False

    def load(self, path: str | os.PathLike) -> None:
        """Takes over an adapter file of this artifact, and the names of its classes."""
        self.adapter, self.classes = load_adapter(Path(path), self._manifest)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the adapter, atomically; `load`, `edge-s2a eval` and `predict` read it."""
        save_adapter(Path(path), self._engine.adapter, self._manifest, self.classes)

    # -- images ----------------------------------------------------------------------------------------

    def _again_and_again(self, images: Sequence[tuple[ImageLike, Label]]) -> Iterator[tuple[int, np.ndarray]]:
        """As _prepared, pass after pass until one in which none can be read."""
        readable = True
        while readable:
            readable = False
            for prepared in self._prepared(images[index] for index in self._rng.permutation(len(images))):
                readable = True
                yield prepared

    def _prepared(self, images: Iterable[tuple[ImageLike, Label]]) -> Iterator[tuple[int, np.ndarray]]:
        """(number of the class, pixels as the model takes them) of those that can be read."""
        for image, label in images:
            number = self._label(label)
            try:
                yield number, self._pixels(image)
            except UnusableImage as error:
                if (reason := _reason(image, error)) not in self.skipped:
                    self.skipped.append(reason)

    def _pixels(self, image: ImageLike) -> np.ndarray:
        """uint8 (height, width, 3)"""
        preprocessing = self._manifest.preprocessing
        if isinstance(image, str | os.PathLike):
            image = read_image(Path(image), preprocessing, self.plan.decode_limit_bytes)
        elif isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise UserError(f"an image is {image.dtype} {image.shape}; give uint8 (height, width, 3) in RGB")
            image = Image.fromarray(np.ascontiguousarray(image))
        elif not isinstance(image, Image.Image):
            raise UserError(f"an image is of type {type(image).__name__}; give a path, a Pillow image or an array")
        return resize_and_crop(as_rgb(image), preprocessing)

    def _label(self, label: Label) -> int:
        if isinstance(label, str):
            if label not in self.classes:
                raise UserError(f"class {label!r} is unknown; the classes are {', '.join(self.classes[:20])}")
            return self.classes.index(label)
        if not 0 <= label < len(self.classes):
            raise UserError(f"label {label} is none of 0 to {len(self.classes) - 1}")
        return int(label)

    def _batches(self, images: Iterator[tuple[ImageLike, Label]]) -> Iterator[tuple[Inputs, np.ndarray]]:
        """(inputs of the engine, labels int (micro-batch,)); inputs are valid until the next ones."""
        source = self._prepared(images)
        while part := list(itertools.islice(source, self.plan.micro_batch_size)):
            for _, pixels in part:
                self._collator.add(pixels)
            yield self._collator.inputs(), np.array([label for label, _ in part])


def _reason(image: ImageLike, error: UnusableImage) -> str:
    return f"{image if isinstance(image, str | os.PathLike) else 'an image'}: {error}"


def _require(images: Sequence[tuple[ImageLike, Label]]) -> None:
    if not len(images):
        raise UserError("there are no images to train on; give at least one")


def train(
    artifact: str | os.PathLike,
    data: str | os.PathLike,
    output: str | os.PathLike,
    *,
    memory_budget: str | int,
    val_data: str | os.PathLike | None = None,
    epochs: int = 15,
    batch_size: int = 16,
    lr: float = 2e-3,
    optimizer: str = "adamw",
    weight_decay: float = 0.01,
    warmup_epochs: float = 1.0,
    label_smoothing: float = 0.1,
    clip_norm: float = math.inf,
    augment: str = "none",
    feature_cache: str | int | None = None,
    seed: int = 0,
    resume: bool = False,
    checkpoint_minutes: float = 10.0,
    max_temperature: float = 80.0,
    watchdog_minutes: float = 60.0,
    quiet: bool = False,
    threads: int | None = None,
    provider: str = "cpu",
    on_step: Callable[[dict], None] | None = None,
) -> dict:
    """What `edge-s2a train` does, in this process: fine-tunes on an ImageFolder or .npz `data`, leaves adapters,
    metrics and checkpoints in the folder `output`, and returns the summary, which is also output/summary.json.

    Parameters are the options of the command (`edge-s2a train --help`). on_step: called after each step with what
    metrics.jsonl says of it. Raises UserError, BudgetError, and MemoryPressure where the machine no longer has the
    memory that was planned: then call again in a fresh process with resume=True and the budget that it names.
    """
    engine_settings = start_engine(provider, threads)
    settings = trainer.TrainSettings(
        artifact=Path(artifact),
        data=Path(data),
        output=Path(output),
        memory_budget_bytes=parse_budget(memory_budget) if isinstance(memory_budget, str) else memory_budget,
        threads=engine_settings.threads,
        val_data=None if val_data is None else Path(val_data),
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        optimizer=optimizer,
        warmup_epochs=warmup_epochs,
        label_smoothing=label_smoothing,
        augment=augment,
        feature_cache_bytes=parse_size(feature_cache) if isinstance(feature_cache, str) else feature_cache,
        seed=seed,
        clip_norm=clip_norm,
        resume=resume,
        checkpoint_minutes=checkpoint_minutes,
        max_temperature_c=max_temperature,
        watchdog_minutes=watchdog_minutes,
        quiet=quiet,
    )
    return trainer.train(settings, engine_settings, on_step)
