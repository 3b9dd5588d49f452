"""Fine-tunes an artifact's adapter on a folder of images inside a memory budget: what `edge-s2a train` does."""

import dataclasses
from pathlib import Path
from typing import Any

from edge_s2a.artifact.manifest import Manifest
from edge_s2a.device.data.dataset import Dataset, has_split, open_dataset, unused_files
from edge_s2a.device.data.feature_cache import FeatureCache
from edge_s2a.device.data.split import divided, stratified
from edge_s2a.device.image_depth import explained, intensity_for
from edge_s2a.device.images.dataset import DatasetImages
from edge_s2a.device.learned_start import (
    is_continued,
    is_due,
    keep_both,
    keep_learned,
    learn_first,
    learned_before,
    try_out,
)
from edge_s2a.device.load import require_adapter
from edge_s2a.device.memory.index import index_memory
from edge_s2a.device.policy.interruption import Interruption
from edge_s2a.device.run_folder import RunFolder
from edge_s2a.device.trainer import Trainer
from edge_s2a.device.training_loop import TrainingLoop, length_of
from edge_s2a.errors import UserError
from edge_s2a.option import common
from edge_s2a.options import TrainerOptions, TrainOptions
from edge_s2a.run.convert import to_json
from edge_s2a.run.progress import Progress
from edge_s2a.run.schema import FEATURES
from edge_s2a.sizes import format_size
from edge_s2a.system.memory import make_allocator_predictable
from edge_s2a.system.which import NOTE

DEFAULT_CACHE_BYTES = 512 << 20


def train(options: TrainOptions) -> dict[str, Any]:
    """Fine-tunes on the ImageFolder or .npz `data`, in this process, and returns the summary, which is also
    OUTPUT/summary.json.

    Writes what docs/RUN.md lists. Raises UserError for bad input and BudgetError if the budget is too small;
    KeyboardInterrupt when told to stop, and MemoryPressure where the machine no longer has the memory that was
    planned, both with a checkpoint of the last step: then call again, in a fresh process, with resume=True and the
    budget that the error names.
    """
    if is_due(options):
        learn_first(options)
    return train_adapter(options)


def train_adapter(options: TrainOptions) -> dict[str, Any]:
    """The same without what comes before a training that starts from what one pass teaches."""
    with RunFolder(Path(options.output)) as folder, Interruption() as interruption:
        make_allocator_predictable()
        manifest = require_adapter(Path(options.artifact))
        training, held_out = open_datasets(options, manifest)
        index = index_memory(manifest, training, held_out)
        intensity = intensity_for(options.intensity, training, options.memory_budget)
        trainer = Trainer.expecting(TrainerOptions(**common(options, TrainerOptions)), index)
        trainer.classes, trainer.intensity = training.classes, intensity
        if options.init_adapter is not None:
            begin_with(trainer, Path(options.init_adapter), training)
        images = DatasetImages(training, trainer.runtime, options.augment, options.seed, options.balance)
        validation = None if held_out is None else DatasetImages(held_out, trainer.runtime)
        used = as_used(options, trainer)
        length = length_of(options, images.count)
        progress = Progress(length.total_steps, trainer.plan.budget_bytes, options.quiet)
        describe(progress, trainer, images)
        datasets = [dataset for dataset in (training, held_out) if dataset is not None]
        if folder.problem:
            progress.message(folder.problem)
        for dataset in datasets:
            if unused := unused_files(dataset):
                progress.message(unused)
        keep_features(options, trainer, datasets, progress)
        learned = learned_before(options, trainer.classes, training)
        compared = None if learned is None else try_out(used, trainer, learned, training, interruption)
        loop = TrainingLoop(
            trainer, images, length, used, interruption,
            folder=folder, validation=validation, progress=progress,
            on_step=lambda _, line: options.on_step(to_json(line)) if options.on_step and line else None,
        )  # fmt: skip
        if compared is not None and not compared.share:
            progress.message("training makes the answers no better, and ends here")
            loop.begin_records()
            keep_learned(options, trainer)
            return to_json(loop.finish(compared))
        # Without a checkpoint of its own, what is resumed is a training that was still being tried out.
        if is_continued(options) and (folder.has_checkpoint or (options.resume and learned is None)):
            loop.resume()
        else:
            loop.begin(options.seed)
        loop.run()
        if learned is not None and compared is not None:
            if validation is not None:
                trainer.adapter = loop.best
            compared = keep_both(options, trainer, compared, learned, held_out)
        return to_json(loop.finish(compared))


def open_datasets(options: TrainOptions, manifest: Manifest) -> tuple[Dataset, Dataset | None]:
    """Returns the training images, and those for validation if there are some."""
    data, classes = Path(options.data), manifest.num_classes
    training = open_dataset(data, "train", manifest.labels, classes)
    val_path = options.val_data or (data if has_split(data, "val") else None)
    validation = None
    if val_path is None and not options.val_split and (options.patience or options.metric != "accuracy"):
        raise UserError("--patience and --metric need validation images; give --val-data, or --val-split 0.2")
    if val_path is not None:
        if options.val_split:
            raise UserError(f"{val_path} has validation images; leave --val-split out")
        validation = open_dataset(Path(val_path), "val", training.classes, classes)
    elif options.val_split:
        places = stratified(training.labels, options.val_split, options.seed)
        if not len(places):
            raise UserError(
                f"--val-split {options.val_split} of so few images of each class is none; give a larger share"
            )
        training, validation = divided(training, places)
    return training, validation


def begin_with(trainer: Trainer, path: Path, training: Dataset) -> None:
    """Makes the adapter of a file the one that is trained. Raises UserError if it is of other classes."""
    trainer.load(path)
    if trainer.classes != training.classes:
        raise UserError(
            f"{path} was trained for the classes {', '.join(trainer.classes[:8])}, and {training.where} has "
            f"{', '.join(training.classes[:8])}; give an adapter of the same classes in the same order"
        )


def as_used(options: TrainOptions, trainer: Trainer) -> TrainOptions:
    """Returns the options with what was left to the machine as it turned out."""
    return dataclasses.replace(
        options,
        memory_budget=trainer.budget_bytes,
        threads=trainer.engine_settings.threads,
        intensity=str(trainer.intensity or options.intensity),
    )


def describe(progress: Progress, trainer: Trainer, images: DatasetImages) -> None:
    manifest, plan = trainer.manifest, trainer.plan
    progress.message(
        f"{manifest.model}: {manifest.trainable_parameters} of {manifest.total_parameters} parameters trained on "
        f"{images.count} images of {len(trainer.classes)} classes\n"
        f"budget {format_size(plan.budget_bytes)}, predicted peak {format_size(plan.predicted_peak_bytes)}: batches of "
        f"{plan.batch_size} in micro-batches of {plan.micro_batch_size}" + (f"\n{NOTE}" if NOTE else "")
    )
    if trainer.intensity is not None:
        progress.message(explained(trainer.intensity))


def keep_features(options: TrainOptions, trainer: Trainer, datasets: list[Dataset], progress: Progress) -> None:
    """Keeps the backbone's features in RUN/features.cache, where they do not change. Raises UserError where the user
    asks for that and they do."""
    limit_bytes, reason = options.feature_cache, None
    if not trainer.manifest.features:
        reason = (
            "the adapter acts in the backbone, whose features change from step to step; leave it out, or repack with "
            "an adapter that acts only behind or beside the backbone (docs/how-to/adapter.md)"
        )
    elif options.augment == "crop":
        reason = "--augment crop shows another part of an image each time; leave one of the two out"
    if reason is not None:
        if limit_bytes:
            raise UserError(f"--feature-cache: {reason}")
        return
    limit_bytes = DEFAULT_CACHE_BYTES if limit_bytes is None else limit_bytes
    if not limit_bytes:
        return
    path = Path(options.output) / FEATURES
    try:
        cache = FeatureCache(path, trainer.manifest, int(limit_bytes), trainer.intensity)
    except OSError as error:
        raise UserError(f"cannot use {path}: {error.strerror}; remove it, or give --feature-cache 0") from error
    trainer.collator.keep_features(cache)
    for dataset in datasets:
        dataset.remember_digests()
    progress.message(f"{path} holds the features of {cache.count} images, and has room for {cache.capacity}")
