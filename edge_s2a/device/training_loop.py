"""Runs a training: optimizer steps, epoch after epoch, with policies between them.

`edge_s2a.train`, the command line, `Trainer.fit` and the clients of a fleet all run this loop; they differ in where
their images come from, and in whether a folder keeps what they leave.
"""

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edge_s2a.artifact.adapter import copy_into
from edge_s2a.device.checkpoint import Position
from edge_s2a.device.data.balance import balanced_weights
from edge_s2a.device.data.collate import Prepared
from edge_s2a.device.images.protocol import Images
from edge_s2a.device.optim.schedule import learning_rate
from edge_s2a.device.policy.checkpoints import Checkpoints
from edge_s2a.device.policy.contention import Contention
from edge_s2a.device.policy.divergence import Divergence
from edge_s2a.device.policy.heat import Condition, Heat, read_condition
from edge_s2a.device.policy.interruption import Interruption
from edge_s2a.device.policy.memory_pressure import MemoryPressurePolicy
from edge_s2a.device.policy.protocol import Policy
from edge_s2a.device.policy.watchdog import Watchdog
from edge_s2a.device.run_facts import run_facts
from edge_s2a.errors import UserError
from edge_s2a.option import record, result_options
from edge_s2a.options import StepOptions, TrainOptions
from edge_s2a.run.progress import Progress
from edge_s2a.run.schema import ComparedFacts, EpochLine, MetricsLine, RunFacts, StepLine, Summary
from edge_s2a.sizes import format_size
from edge_s2a.system.memory import peak_resident_bytes, resident_bytes

if TYPE_CHECKING:
    from edge_s2a.device.run_folder import RunFolder
    from edge_s2a.device.trainer import Trainer


class TrainingStep(NamedTuple):
    """One optimizer step, as `Trainer` reports it."""

    step: int  # from 1, over the life of the trainer
    loss: float  # mean over the batch before the update, with label smoothing
    accuracy: float  # share of the batch whose likeliest class was right
    learning_rate: float  # 0 where loss or gradient were not finite: then nothing was updated
    gradient_norm: float
    images: int  # in the batch
    seconds: float

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


@dataclass(frozen=True)
class Length:
    """How long a training is: until `epochs` are done, or `steps`."""

    total_steps: int  # over which the learning rate falls
    warmup_steps: int
    epochs: float = math.inf
    steps: float = math.inf
    patience: float = math.inf  # epochs without a better adapter


def length_of(options: TrainOptions, images: int) -> Length:
    """That of a training by epochs. images: per epoch."""
    steps_per_epoch = math.ceil(images / options.batch_size)
    return Length(
        steps_per_epoch * options.epochs, round(options.warmup_epochs * steps_per_epoch), epochs=options.epochs,
        patience=options.patience or math.inf,
    )  # fmt: skip


class TrainingLoop:
    """A training and where it stands: what policies look at and change."""

    def __init__(
        self,
        trainer: "Trainer",
        images: Images,
        length: Length,
        options: StepOptions,
        interruption: Interruption,
        *,
        folder: "RunFolder | None" = None,
        validation: Images | None = None,
        progress: Progress | None = None,
        on_step: Callable[[TrainingStep, StepLine | None], None] | None = None,
    ):
        """folder: keeps records and checkpoints; without one nothing is written. on_step: called after each step with
        its line of metrics.jsonl, None for a step that was skipped."""
        self.trainer, self.images, self.length = trainer, images, length
        self.interruption, self.folder, self.validation, self.on_step = interruption, folder, validation, on_step
        self.progress = progress or Progress(length.total_steps, trainer.plan.budget_bytes, quiet=True)
        self.options = options
        self.watchdog, self.divergence = Watchdog(options.watchdog_minutes), Divergence()
        self.policies: list[Policy] = [
            self.divergence,
            interruption,
            Checkpoints(options.checkpoint_minutes),
            MemoryPressurePolicy(),
            Heat(options.max_temperature, interruption.sleep),
            Contention(),
            self.watchdog,
        ]
        self.position = Position()
        self.best = {name: array.copy() for name, array in trainer.engine.adapter.items()}
        self.condition = Condition(None, False)  # of the device after the last step
        self.started_s = self.saved_s = time.monotonic()
        self.is_stopped = False
        self.validated: dict[str, Any] | None = None  # of the last epoch
        trainer.class_weights = self._class_weights()

    def _class_weights(self) -> np.ndarray | None:
        if self.options.class_weights == "none":
            return None
        if self.images.labels is None:
            raise UserError("class_weights balanced needs images that can be counted before; give a sequence")
        return balanced_weights(self.images.labels, len(self.trainer.classes))

    # -- before and after ------------------------------------------------------------------------------

    def begin(self, start_seed: int) -> None:
        """Begins a new training: its records, and an adapter that nothing has trained yet, which starts from images
        chosen by `start_seed`."""
        trainer, images = self.trainer, self.images
        self.begin_records()
        if trainer.is_fresh and images.labels is not None:
            count = trainer.start_from(images, start_seed)
            if count is not None:
                self.progress.message(f"head set to the class means of {count} images")
                if maps := trainer.manifest.low_rank_maps:
                    self.progress.message(f"{len(maps)} low-rank maps set to the directions of their gradient")
        self.remember_best()

    def begin_records(self) -> None:
        """Forgets what an earlier training left in the folder, if there is one, and says what this one is."""
        if self.folder is not None:
            self.folder.begin()
            self.folder.write_facts(self._facts())

    def resume(self) -> None:
        """Continues the training whose checkpoint the folder holds. Raises UserError if there is none, or if it had
        other options or images."""
        if self.folder is None:
            raise UserError("there is nothing to resume without a folder; give output")
        damage = self.folder.restore(self)
        trainer, position = self.trainer, self.position
        trainer.is_fresh = False
        trainer.steps, trainer.optimizer.steps = position.step, position.updates
        self.folder.write_facts(self._facts())
        self.progress.continue_from(position.step)
        if damage:
            self.progress.message(f"{damage}; the one before it is used")
        self.progress.message(
            f"resumed at epoch {position.epoch + 1}, step {position.step}; the learning rate follows the schedule of "
            f"all {self.length.total_steps} steps"
        )

    def identity(self) -> dict[str, Any]:
        """Returns what a training that is resumed must agree in."""
        steps, warmup_steps = self.length.steps, self.length.warmup_steps
        return {
            **result_options(self.options),
            **({} if math.isinf(steps) else {"steps": steps, "warmup_steps": warmup_steps}),
            "model_digest": self.trainer.manifest.model_digest,
            "images": self.images.count,
            "feature_cache": self.trainer.collator.cache is not None,
        }

    def _facts(self) -> RunFacts:
        return run_facts(
            record(self.options), self.trainer.runtime, self.trainer.classes, self.images, self.validation,
            steps=self.length.total_steps, resumed_at_step=self.position.step,
        )  # fmt: skip

    def finish(self, compared: ComparedFacts | None = None) -> Summary:
        """Returns the summary of a training that has ended; it is also the last file that the folder gets. compared:
        with what was learned in one pass."""
        position, plan, manifest, skipped = self.position, self.trainer.plan, self.trainer.manifest, self.skipped()
        summary = Summary(
            steps=position.step,
            epochs=position.epoch,
            train_loss=position.train_loss,
            val_accuracy=position.val_accuracy,
            val_balanced_accuracy=position.val_balanced_accuracy,
            val_recall=self._recall(),
            best_accuracy=None if self.validation is None or position.best_accuracy < 0 else position.best_accuracy,
            seconds=position.elapsed_s,
            seconds_per_step=position.training_s / max(1, position.step),
            peak_rss_bytes=peak_resident_bytes(),
            excess_bytes=self._excess_bytes(),
            predicted_peak_bytes=plan.predicted_peak_bytes,
            budget_bytes=plan.budget_bytes,
            batch_size=self.options.batch_size,
            micro_batch_size=plan.micro_batch_size,
            rate_share=position.rate_share,
            trainable_parameters=manifest.trainable_parameters,
            total_parameters=manifest.total_parameters,
            classes=self.trainer.classes,
            skipped_images=len(skipped),
            skipped=skipped,
            output="" if self.folder is None else str(self.folder.path),
            compared=compared,
        )
        if self.folder is not None:
            self.folder.finish(summary)
        return summary

    def _recall(self) -> dict[str, float]:
        """Returns class -> recall in the last validation, also where that was in an earlier process."""
        if self.validated is not None:
            return self.validated["recall"]
        if self.validation is None or self.folder is None:
            return {}
        return self.folder.last_recall()

    # -- the loop --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Makes all steps that are left. Raises KeyboardInterrupt when told to stop, and what policies raise, after a
        checkpoint if there is a folder."""
        while not self.is_finished:
            with (
                self.interruption.held_back(),
                self.watchdog,
                contextlib.closing(self.images.epoch(self.position)) as images,
            ):
                while not self.are_steps_done and (step := self.step(images)) is not None:
                    for policy in self.policies:
                        policy.after_step(self, step)
                self.save()  # validation takes its time
            if self.position.count or not self.images.is_exhausted:
                self.finish_epoch()

    @property
    def are_steps_done(self) -> bool:
        return self.is_stopped or self.position.step >= self.length.steps

    @property
    def is_finished(self) -> bool:
        position, length = self.position, self.length
        is_patience_over = position.epochs_since_best >= length.patience
        return self.are_steps_done or self.images.is_exhausted or position.epoch >= length.epochs or is_patience_over

    def step(self, images: Iterator[tuple[int, Prepared]]) -> TrainingStep | None:
        """Makes one update from the next effective batch and records it; None if there are no images."""
        position, batch = self.position, itertools.islice(images, self.options.batch_size)
        lr = learning_rate(position.step, self.options.lr, self.length.warmup_steps, self.length.total_steps)
        step = self.trainer.step_prepared(batch, position.rate_share * lr)
        if step is None:
            return None
        position.step += 1
        self.condition = read_condition()
        line = self._record(step) if step.is_finite else None
        if self.on_step:
            self.on_step(step, line)
        return step

    def _record(self, step: TrainingStep) -> StepLine:
        position = self.position
        if position.step == 1:
            position.lowest_loss = step.loss  # of the adapter as it was at the start
        position.training_s += step.seconds
        position.loss_sum += step.loss * step.images
        position.correct += round(step.accuracy * step.images)
        position.count += step.images
        line = StepLine(
            epoch=position.epoch + 1, step=position.step, loss=step.loss, gradient_norm=step.gradient_norm,
            accuracy=step.accuracy, lr=step.learning_rate, images_per_s=step.images / step.seconds,
            rss_bytes=resident_bytes(), seconds=step.seconds, temperature_c=self.condition.temperature_c,
        )  # fmt: skip
        self.write(line)
        self.progress.step(
            position.step, position.loss_sum / position.count, position.correct / position.count,
            line.images_per_s, line.rss_bytes,
        )  # fmt: skip
        return line

    def finish_epoch(self) -> None:
        """Validates, keeps the best adapter, and writes a checkpoint."""
        position = self.position
        if position.count:
            position.train_loss = position.loss_sum / position.count
            train_accuracy = position.correct / position.count
            text = f"loss {position.train_loss:.4f}, accuracy {100 * train_accuracy:.1f} %"
        else:
            require_usable(self.images)
            position.train_loss = train_accuracy = None
            text = "no step was finite"
        validated = self._validate()
        if validated["accuracy"] is not None:
            text += f", val accuracy {100 * validated['accuracy']:.1f} %"
            if self.options.metric != "accuracy":
                text += f", balanced {100 * validated['balanced_accuracy']:.1f} %"
            text += "" if validated["loss"] is None else f", val loss {validated['loss']:.4f}"
        epoch = f"epoch {position.epoch + 1}{self._of_epochs}"
        self.progress.message(f"{epoch}: {text}, mem {format_size(resident_bytes())}")
        self.write(
            EpochLine(
                epoch=position.epoch + 1, train_loss=position.train_loss, train_accuracy=train_accuracy,
                val_loss=validated["loss"], val_accuracy=validated["accuracy"], skipped_images=len(self.skipped()),
                peak_rss_bytes=peak_resident_bytes(), val_balanced_accuracy=validated["balanced_accuracy"],
            )
        )  # fmt: skip
        if (cache := self.trainer.collator.cache) is not None and (problem := cache.take_problem()):
            self.progress.message(f"features.cache grows no more: {problem}; what it lacks is computed in each epoch")
        metric = validated[self.options.metric.replace("-", "_")]
        self._judge(train_accuracy if metric is None else metric)
        if position.epochs_since_best >= self.length.patience:
            self.progress.message(f"no better adapter in {position.epochs_since_best} epochs: training ends here")
        self._begin_epoch()
        self.save()

    @property
    def _of_epochs(self) -> str:
        return f"/{self.length.epochs}" if math.isfinite(self.length.epochs) else ""

    def _validate(self) -> dict[str, Any]:
        if self.validation is None:
            return {"accuracy": None, "loss": None, "balanced_accuracy": None}
        with contextlib.nullcontext() if self.folder is None else self.folder.predictions() as predictions:
            validated = self.validation.evaluate(predictions)
        if not validated["count"]:
            where = "" if self.validation.where is None else f" of {self.validation.where}"
            raise UserError(f"no image{where} could be read; check the validation data")
        self.position.val_accuracy = validated["accuracy"]
        self.position.val_balanced_accuracy = validated["balanced_accuracy"]
        self.validated = validated
        return validated

    def _judge(self, accuracy: float | None) -> None:
        """Keeps the adapter if it is the best so far, and leaves it if the loss has run away."""
        accuracy = 0.0 if accuracy is None else accuracy
        self.position.epochs_since_best += 1
        if not self.divergence.rejects_epoch(self) and accuracy > self.position.best_accuracy:
            self.position.best_accuracy = accuracy
            self.position.epochs_since_best = 0
            self.remember_best()

    def _begin_epoch(self) -> None:
        position, count = self.position, self.images.count
        passes = max(1, position.images // count) if count else 1
        position.epoch += passes
        position.images = max(0, position.images - passes * count) if count else position.images
        position.correct = position.count = 0
        position.loss_sum = 0.0

    # -- for policies and owners -----------------------------------------------------------------------

    def stop(self) -> None:
        """Makes the current step the last."""
        self.is_stopped = True

    def remember_best(self) -> None:
        copy_into(self.best, self.trainer.engine.adapter)

    def restore_best(self) -> None:
        copy_into(self.trainer.engine.adapter, self.best)

    def skipped(self) -> dict[str, str]:
        """Returns the images that could not be used, with the reason."""
        return self.images.skipped() | (self.validation.skipped() if self.validation else {})

    def write(self, line: MetricsLine) -> None:
        """Records a line of metrics.jsonl, if there is a folder."""
        if self.folder is not None:
            self.folder.write(line)

    def save(self) -> None:
        """Writes the adapters and a checkpoint from which the training can be resumed, if there is a folder."""
        if self.folder is None:
            return
        position, now = self.position, time.monotonic()
        position.updates = self.trainer.optimizer.steps
        position.elapsed_s += now - self.started_s
        position.excess_bytes = self._excess_bytes()
        self.started_s = now
        self.folder.save(self)
        self.saved_s = time.monotonic()

    def _excess_bytes(self) -> int:
        """The most by which this or an earlier process of the training exceeded its memory budget."""
        return max(self.position.excess_bytes, peak_resident_bytes() - self.trainer.budget_bytes)

    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """Returns the tensors of a checkpoint, as they are: group -> name -> array."""
        trainer = self.trainer
        return {"adapter": trainer.engine.adapter, "best": self.best, "optimizer": trainer.optimizer.state}


def require_usable(images: Images) -> None:
    """Raises UserError if no image at all could be used."""
    skipped = images.skipped()
    if len(skipped) == images.count:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
        raise UserError(f"no image of {images.where} could be used ({reasons}); check the data")
