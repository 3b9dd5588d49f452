"""Fine-tunes an artifact's adapter on a folder of images inside a memory budget."""

import contextlib
import dataclasses
import itertools
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_s2a.artifact.adapter import check_shapes, save_adapter
from edge_s2a.artifact.files import atomic_writer, locked, make_folder, write_bytes, writing
from edge_s2a.device.checkpoint import Position, load_checkpoint, remove_checkpoints, save_checkpoint
from edge_s2a.device.data.collate import Prepared
from edge_s2a.device.data.dataset import Dataset, has_split, open_dataset
from edge_s2a.device.data.feature_cache import FeatureCache
from edge_s2a.device.data.loader import stream
from edge_s2a.device.engine.base import EngineSettings, Inputs
from edge_s2a.device.engine.batches import read_batches
from edge_s2a.device.engine.load import load
from edge_s2a.device.evaluate import evaluate
from edge_s2a.device.memory.available import attainable_bytes
from edge_s2a.device.memory.budget import queue_capacity, smaller_budget
from edge_s2a.device.memory.process import peak_resident_bytes, resident_bytes
from edge_s2a.device.optim.accumulate import BatchResult, accumulate
from edge_s2a.device.optim.optimizer import OPTIMIZERS, forget
from edge_s2a.device.optim.schedule import learning_rate
from edge_s2a.device.policy.guard import LEAST_RATE_SHARE, REPEATS, clip, has_diverged, watchdog
from edge_s2a.device.policy.heat import Condition, read_condition, rest_s
from edge_s2a.device.run_facts import run_facts
from edge_s2a.device.runtime import Runtime
from edge_s2a.device.start.adapter import start_adapter
from edge_s2a.device.start.head import images_for_means, relative_rates
from edge_s2a.errors import MemoryPressure, UserError
from edge_s2a.run.writer import MetricsFile, Progress
from edge_s2a.sizes import format_size

DEFAULT_CACHE_BYTES = 512 << 20


@dataclass(frozen=True)
class TrainSettings:
    """The options of `edge-s2a train`; see its --help."""

    artifact: Path
    data: Path
    output: Path
    memory_budget_bytes: int
    threads: int
    val_data: Path | None = None
    epochs: int = 15
    batch_size: int = 16
    lr: float = 2e-3
    weight_decay: float = 0.01
    optimizer: str = "adamw"
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.1
    augment: str = "none"
    feature_cache_bytes: int | None = None  # None: DEFAULT_CACHE_BYTES where there is something to keep
    seed: int = 0
    clip_norm: float = math.inf
    resume: bool = False
    checkpoint_minutes: float = 10.0
    max_temperature_c: float = 80.0
    watchdog_minutes: float = 60.0
    quiet: bool = False

    def of_the_result(self) -> dict:
        """The settings that decide the trained weights; a resumed run must agree in them."""
        apart = {
            "artifact", "data", "val_data", "output", "memory_budget_bytes", "threads", "resume", "checkpoint_minutes",
            "max_temperature_c", "watchdog_minutes", "feature_cache_bytes", "quiet",
        }  # fmt: skip
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in apart}


def train(
    settings: TrainSettings, engine_settings: EngineSettings, on_step: Callable[[dict], None] | None = None
) -> dict:
    """Runs the whole fine-tuning and returns its summary, which is also RUN/summary.json. on_step: gets what
    metrics.jsonl says of each step.

    Writes what docs/RUN.md lists. Raises UserError for bad input and BudgetError if the budget is too small;
    KeyboardInterrupt when told to stop, and MemoryPressure where the machine no longer has what was planned, both with
    a checkpoint of the last step.
    """
    make_folder(settings.output / "checkpoint")
    with locked(settings.output / "lock"), Interruption() as interruption:
        runtime = load(
            settings.artifact,
            settings.memory_budget_bytes,
            settings.batch_size,
            engine_settings,
            settings.optimizer,
        )
        run = Run(settings, runtime, on_step)
        if settings.resume:
            run.resume()
        else:
            run.start_anew()
        while run.position.epoch < settings.epochs:
            with interruption.held_back(), contextlib.closing(run.images()) as images:
                while run.optimizer_step(itertools.islice(images, settings.batch_size)):
                    if interruption.requested or run.checkpoint_is_due():
                        run.save()
                    interruption.raise_if_requested()
                    run.watch_memory()
                    interruption.sleep(run.rest_s())
                run.save()  # validation takes its time
            run.finish_epoch()
        return run.summarize()


class Run:
    """The state of a fine-tuning and its steps."""

    def __init__(self, settings: TrainSettings, runtime: Runtime, on_step: Callable[[dict], None] | None):
        self.settings, self.runtime, self.on_step = settings, runtime, on_step
        self.engine, self.plan, self.collator = runtime.engine, runtime.plan, runtime.collator
        self.manifest = runtime.artifact.manifest
        labels, classes = self.manifest.labels, self.manifest.num_classes
        self.data = open_dataset(settings.data, "train", labels, classes)
        self.val_data = self._open_val_data(classes)

        self.optimizer = OPTIMIZERS[settings.optimizer](
            self.engine.adapter,
            settings.weight_decay,
            relative_rates(self.manifest.head, settings.optimizer, settings.lr),
        )
        self.gradients = {name: np.zeros_like(array) for name, array in self.engine.adapter.items()}
        self.best = {name: array.copy() for name, array in self.engine.adapter.items()}

        self.steps_per_epoch = math.ceil(len(self.data.samples) / settings.batch_size)
        self.total_steps = self.steps_per_epoch * settings.epochs
        self.position = Position()
        self.started_s = time.monotonic()
        self.progress = Progress(self.total_steps, self.plan.budget_bytes, settings.quiet)
        self.saved_s = self.started_s
        self.step_s = 0.0  # what the last recorded step took
        self.condition = Condition(None, False)  # of the device after it
        self.progress.message(
            f"{self.manifest.model}: {self.manifest.trainable_parameters} of {self.manifest.total_parameters} "
            f"parameters trained on {len(self.data.samples)} images of {len(self.data.classes)} classes\n"
            f"budget {format_size(self.plan.budget_bytes)}, predicted peak "
            f"{format_size(self.plan.predicted_peak_bytes)}: batches of {settings.batch_size} in "
            f"micro-batches of {self.plan.micro_batch_size}"
        )
        self._open_feature_cache()

    def _open_feature_cache(self) -> None:
        """Where the backbone's features do not change, keeps them in RUN/features.cache."""
        limit_bytes, reason = self.settings.feature_cache_bytes, None
        if not self.manifest.features:
            reason = "adapters act in the backbone, so its features change from step to step"
        elif self.settings.augment == "crop":
            reason = "--augment crop shows another part of an image each time"
        if reason is not None:
            if limit_bytes:
                raise UserError(f"--feature-cache: {reason}; leave it away, or pack with --adapter side")
            return
        limit_bytes = DEFAULT_CACHE_BYTES if limit_bytes is None else limit_bytes
        if not limit_bytes:
            return
        path = self.settings.output / "features.cache"
        try:
            cache = FeatureCache(path, self.manifest, limit_bytes)
        except OSError as error:
            raise UserError(f"cannot use {path}: {error.strerror}; remove it, or give --feature-cache 0") from error
        self.collator.keep_features(cache)
        self.progress.message(f"{path} holds the features of {cache.count} images, and has room for {cache.capacity}")

    def _open_val_data(self, classes: int) -> Dataset | None:
        path = self.settings.val_data
        if path is None and has_split(self.settings.data, "val"):
            path = self.settings.data
        return open_dataset(path, "val", self.data.classes, classes) if path else None

    def start_anew(self) -> None:
        """Forgets what an earlier run left in the folder, and prepares the adapter."""
        remove_checkpoints(self.settings.output / "checkpoint")
        remove_results(self.settings.output)
        self.metrics = MetricsFile(self.settings.output / "metrics.jsonl", 0, 0)
        self._write_facts()
        self.start_adapter()
        self._remember_best()

    def start_adapter(self) -> None:
        """From some of the training images, where the head may start so."""
        labels = np.array([sample.label for sample in self.data.samples])
        chosen = images_for_means(labels, self.settings.seed)

        def batches() -> Iterator[tuple[Inputs, np.ndarray]]:
            return ((inputs, labels[indices]) for indices, inputs in read_batches(self.data, chosen, self.collator))

        smoothing, batch_size = self.settings.label_smoothing, self.settings.batch_size
        count = start_adapter(self.engine, self.manifest, batches, self.gradients, smoothing, batch_size)
        if count is None:
            return
        self.progress.message(f"head set to the class means of {count} images")
        if self.manifest.low_rank_maps:
            self.progress.message(
                f"{len(self.manifest.low_rank_maps)} low-rank maps set to their gradient's directions"
            )

    # -- the steps of an epoch -------------------------------------------------------------------------

    def images(self) -> Iterator[tuple[int, Prepared]]:
        """(label, image) of those that remain of the current epoch, in this epoch's order."""
        settings, epoch = self.settings, self.position.epoch
        order = np.random.default_rng((settings.seed, epoch)).permutation(len(self.data.samples)).tolist()
        place = {index: number for number, index in enumerate(order, 1)}

        def load(index: int) -> Prepared:
            return self.collator.load(self.data, index, settings.augment, (settings.seed, epoch))

        capacity = queue_capacity(self.plan.micro_batch_size)
        with contextlib.closing(stream(self.data, order[self.position.images :], load, capacity)) as ready:
            for index, prepared in ready:
                self.position.images = place[index]
                yield self.data.samples[index].label, prepared

    def optimizer_step(self, images: Iterator[tuple[int, Prepared]]) -> bool:
        """One update from one effective batch; False if it has no images."""
        with watchdog(self.settings.watchdog_minutes):
            return self._optimizer_step(images)

    def _optimizer_step(self, images: Iterator[tuple[int, Prepared]]) -> bool:
        start_s = time.monotonic()
        settings = self.settings
        result = accumulate(self.runtime, images, self.gradients, settings.batch_size, settings.label_smoothing)
        if not result.count:
            return False
        self.position.step += 1
        if result.is_finite:
            clip(self.gradients, result.gradient_norm, settings.clip_norm)
            lr = self._learning_rate()
            self.optimizer.step(self.gradients, lr)
            self.position.failures = 0
            self._record_step(result, lr, time.monotonic() - start_s)
        else:
            self._skip_step()
        return True

    def _learning_rate(self) -> float:
        warmup_steps = round(self.settings.warmup_epochs * self.steps_per_epoch)
        lr = learning_rate(self.position.step - 1, self.settings.lr, warmup_steps, self.total_steps)
        return self.position.rate_share * lr

    def _skip_step(self) -> None:
        """Records a step whose loss or gradient is not finite; after some in a row, goes back."""
        position = self.position
        position.failures += 1
        self.metrics.write(kind="skipped", epoch=position.epoch + 1, step=position.step, reason="not finite")
        if position.failures == REPEATS:
            self._go_back(f"loss or gradient were not finite {REPEATS} steps in a row")

    def _go_back(self, reason: str) -> None:
        """To the best adapter so far, at half the learning rate. Raises UserError where that has been of no use."""
        position = self.position
        if position.rate_share <= LEAST_RATE_SHARE:
            self.save()
            raise UserError(
                f"{reason}, also at {position.rate_share:g} of the learning rate; the best adapter is in "
                f"{self.settings.output / 'best.safetensors'}; check the artifact on this device with edge-s2a check"
            )
        position.failures = 0
        position.rate_share /= 2
        for name, array in self.engine.adapter.items():
            array[...] = self.best[name]
        forget(self.optimizer)
        self.metrics.write(
            kind="restored", epoch=position.epoch + 1, step=position.step, reason=reason, rate_share=position.rate_share
        )
        self.progress.message(
            f"step {position.step}: {reason}; going on from the best adapter with {position.rate_share:g} of the "
            "learning rate"
        )

    def _record_step(self, result: BatchResult, lr: float, seconds: float) -> None:
        position = self.position
        loss, norm, correct, count = result
        if position.step == 1:
            position.lowest_loss = loss  # of the adapter as it was at the start
        self.step_s = seconds
        position.training_s += seconds
        position.loss_sum += loss * count
        position.correct += correct
        position.count += count
        resident, self.condition = resident_bytes(), read_condition()
        step = {
            "kind": "step", "epoch": position.epoch + 1, "step": position.step, "loss": round(loss, 6),
            "gradient_norm": float(f"{norm:.6g}"), "accuracy": round(correct / count, 4), "lr": lr,
            "images_per_s": round(count / seconds, 2), "rss_bytes": resident, "seconds": round(seconds, 4),
        }  # fmt: skip
        if self.condition.temperature_c is not None:
            step["temperature_c"] = self.condition.temperature_c
        self.metrics.write(**step)
        if self.on_step:
            self.on_step(step)
        self.progress.step(
            position.step, position.loss_sum / position.count, position.correct / position.count,
            count / seconds, resident,
        )  # fmt: skip

    def finish_epoch(self) -> None:
        """Validates, keeps the best adapter, and writes a checkpoint."""
        position = self.position
        if position.count:
            position.train_loss = position.loss_sum / position.count
            train_accuracy = accuracy = position.correct / position.count
            text = f"loss {position.train_loss:.4f}, accuracy {100 * train_accuracy:.1f} %"
        elif len(self.data.skipped) < len(self.data.samples):
            position.train_loss, train_accuracy, accuracy = None, None, 0.0
            text = "no step was finite"
        else:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(self.skipped().items())[:3])
            raise UserError(f"no image of {self.data.where} could be used ({reasons}); check the data")
        text = f"epoch {position.epoch + 1}/{self.settings.epochs}: {text}"
        val = {"accuracy": None, "loss": None}
        if self.val_data is not None:
            with atomic_writer(self.settings.output / "predictions.jsonl") as predictions:
                val = evaluate(self.runtime, self.val_data, predictions)
            if not val["count"]:
                raise UserError(f"no image of {self.val_data.where} could be read; check the validation data")
            position.val_accuracy = accuracy = val["accuracy"]
            text += f", val accuracy {100 * accuracy:.1f} %"
            text += "" if val["loss"] is None else f", val loss {val['loss']:.4f}"
        self.progress.message(f"{text}, mem {format_size(resident_bytes())}")
        self.metrics.write(
            kind="epoch", epoch=position.epoch + 1, train_loss=position.train_loss,
            train_accuracy=train_accuracy, val_loss=val["loss"], val_accuracy=val["accuracy"],
            skipped_images=len(self.skipped()), peak_rss_bytes=peak_resident_bytes(),
        )  # fmt: skip
        if self.collator.cache is not None and (problem := self.collator.cache.take_problem()):
            self.progress.message(f"features.cache grows no more: {problem}; what it lacks is computed in each epoch")
        self._judge_epoch(accuracy)
        position.epoch += 1
        position.images = position.correct = position.count = 0
        position.loss_sum = 0.0
        self.save()

    def rest_s(self) -> float:
        """How long to rest after the last step: where the device is too hot or its power is short."""
        seconds = rest_s(self.condition, self.settings.max_temperature_c, self.step_s)
        if seconds:
            self.metrics.write(
                kind="rest", epoch=self.position.epoch + 1, step=self.position.step, seconds=round(seconds, 3),
                temperature_c=self.condition.temperature_c, is_power_short=self.condition.is_power_short,
            )  # fmt: skip
        return seconds

    def _judge_epoch(self, accuracy: float) -> None:
        """Keeps the adapter if it is the best so far, and leaves it if the loss has run away."""
        position, loss = self.position, self.position.train_loss
        if loss is not None and has_diverged(loss, position.lowest_loss, self.manifest.num_classes):
            self._go_back(f"the loss rose from {position.lowest_loss:.3f} to {loss:.4g}")
            return
        if loss is not None:
            position.lowest_loss = min(position.lowest_loss, loss)
        if accuracy > position.best_accuracy:
            position.best_accuracy = accuracy
            self._remember_best()

    def _remember_best(self) -> None:
        for name, array in self.engine.adapter.items():
            self.best[name][...] = array

    def watch_memory(self) -> None:
        """Raises MemoryPressure, after writing a checkpoint, where going on in less memory is wise and possible."""
        attainable, resident = attainable_bytes(), resident_bytes()
        budget_bytes = smaller_budget(self.plan, attainable, resident)
        if budget_bytes is None:
            return
        self.save()
        self.metrics.write(
            kind="pressure", step=self.position.step, attainable_bytes=attainable, rss_bytes=resident,
            budget_bytes=budget_bytes,
        )  # fmt: skip
        raise MemoryPressure(
            f"memory has become scarce: {format_size(attainable)} can be had, {format_size(resident)} are in use and "
            f"{format_size(self.plan.predicted_peak_bytes)} planned; going on from step {self.position.step} within "
            f"{format_size(budget_bytes)}",
            budget_bytes,
        )

    # -- what is left on disk --------------------------------------------------------------------------

    def _arrays(self) -> dict[str, dict[str, np.ndarray]]:
        return {"adapter": self.engine.adapter, "best": self.best, "optimizer": self.optimizer.state}

    def checkpoint_is_due(self) -> bool:
        return time.monotonic() - self.saved_s >= 60 * self.settings.checkpoint_minutes

    def save(self) -> None:
        """Writes the adapters and a checkpoint from which --resume continues."""
        output, position = self.settings.output, self.position
        position.updates = self.optimizer.steps
        now = time.monotonic()
        position.elapsed_s += now - self.started_s
        self.started_s = now
        save_adapter(output / "adapter.safetensors", self.engine.adapter, self.manifest, self.data.classes)
        save_adapter(output / "best.safetensors", self.best, self.manifest, self.data.classes)
        save_checkpoint(output / "checkpoint", position, self._arrays(), self._settings())
        self.saved_s = time.monotonic()

    def resume(self) -> None:
        """Takes up the run that the output folder's checkpoint holds."""
        folder = self.settings.output / "checkpoint"
        self.position, damage = load_checkpoint(folder, self._arrays(), self._settings())
        self.metrics = MetricsFile(self.settings.output / "metrics.jsonl", self.position.step, self.position.epoch)
        self._write_facts()
        check_shapes(self.engine.adapter, self.manifest, "checkpoint")
        self.optimizer.steps = self.position.updates
        self.progress = Progress(self.total_steps, self.plan.budget_bytes, self.settings.quiet, self.position.step)
        if damage:
            self.progress.message(f"{damage}; the one before it is used")
        self.progress.message(f"resumed at epoch {self.position.epoch + 1}, step {self.position.step}")

    def _settings(self) -> dict:
        return {
            **self.settings.of_the_result(),
            "model_digest": self.manifest.model_digest,
            "images": len(self.data.samples),
            "feature_cache": self.collator.cache is not None,
        }

    def _write_facts(self) -> None:
        """Writes RUN/run.json."""
        facts = {
            **run_facts(self.settings, self.runtime, self.data, self.val_data),
            "steps": self.total_steps,
            "resumed_at_step": self.position.step,
        }
        write_bytes(self.settings.output / "run.json", json_text(facts))

    def skipped(self) -> dict[str, str]:
        """Images that could not be used, with the reason."""
        return self.data.skipped_names() | (self.val_data.skipped_names() if self.val_data else {})

    def summarize(self) -> dict:
        """Writes RUN/summary.json."""
        self.metrics.close()
        skipped, position = self.skipped(), self.position
        summary = {
            "steps": position.step,
            "epochs": position.epoch,
            "train_loss": position.train_loss,
            "val_accuracy": position.val_accuracy,
            "best_accuracy": position.best_accuracy if position.best_accuracy >= 0 else None,
            "seconds": round(position.elapsed_s, 3),
            "seconds_per_step": round(position.training_s / max(1, position.step), 4),
            "peak_rss_bytes": peak_resident_bytes(),
            "predicted_peak_bytes": self.plan.predicted_peak_bytes,
            "budget_bytes": self.plan.budget_bytes,
            "batch_size": self.settings.batch_size,
            "micro_batch_size": self.plan.micro_batch_size,
            "rate_share": position.rate_share,
            "trainable_parameters": self.manifest.trainable_parameters,
            "total_parameters": self.manifest.total_parameters,
            "classes": self.data.classes,
            "skipped_images": len(skipped),
            "skipped": skipped,
            "output": str(self.settings.output),
        }
        write_bytes(self.settings.output / "summary.json", json_text(summary))
        return summary


def remove_results(folder: Path) -> None:
    """So that who watches a new run in a used folder does not take it for the old one, which has ended."""
    for name in ("summary.json", "predictions.jsonl"):
        with writing(folder / name):
            (folder / name).unlink(missing_ok=True)


def json_text(values: dict) -> bytes:
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()


class Interruption:
    """Within the block SIGINT and SIGTERM raise KeyboardInterrupt, where this is the main thread: only there signals
    arrive."""

    def __init__(self):
        self.requested = False
        self._is_held_back = False

    def __enter__(self) -> "Interruption":
        is_main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()
        self._previous = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, *_) -> None:
        self.requested = True
        if not self._is_held_back:
            raise KeyboardInterrupt

    def raise_if_requested(self) -> None:
        if self.requested:
            raise KeyboardInterrupt

    def sleep(self, seconds: float) -> None:
        """Until a signal at most."""
        end_s = time.monotonic() + seconds
        while not self.requested and (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.2))

    @contextlib.contextmanager
    def held_back(self):
        """Within the block a signal is only noted, and raised at its end."""
        self._is_held_back = True
        try:
            yield
        finally:
            self._is_held_back = False
        self.raise_if_requested()
