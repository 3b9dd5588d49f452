"""Learns a folder of images in one pass, inside a memory budget: what `edge-s2a learn` does."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.files import make_folder
from edge_s2a.artifact.knowledge import Knowledge, artifact_of, is_knowledge, load_knowledge
from edge_s2a.artifact.learned import State
from edge_s2a.artifact.manifest import Manifest
from edge_s2a.codec.features import Layout
from edge_s2a.device.closed_form import state as states
from edge_s2a.device.data.dataset import Dataset, has_split, open_dataset, unused_files
from edge_s2a.device.data.known import read_once
from edge_s2a.device.data.loader import queue_capacity
from edge_s2a.device.evaluate import evaluate
from edge_s2a.device.image_depth import explained, intensity_for
from edge_s2a.device.learner import Learned, Learner
from edge_s2a.device.learning_plan import Expected
from edge_s2a.device.memory.index import index_memory
from edge_s2a.device.policy.interruption import Interruption
from edge_s2a.errors import UserError
from edge_s2a.option import common, optional_path, paths
from edge_s2a.options import LearnerOptions, LearnOptions
from edge_s2a.run.convert import to_json
from edge_s2a.run.knowledge import partial_of
from edge_s2a.run.progress import Progress
from edge_s2a.sizes import format_size
from edge_s2a.system.memory import make_allocator_predictable, peak_resident_bytes
from edge_s2a.system.which import NOTE

Validate = Callable[[Dataset, Learner], dict[str, Any]]
"""Returns accuracy and loss on validation images, as `evaluate` does."""


def learn(options: LearnOptions, validate: Validate | None = None) -> dict[str, Any]:
    """Learns what the options name, writes the knowledge file, and returns the summary: the file's record, which then
    counts writing it, too, "skipped" (image -> why it could not be used) and "output".

    Raises UserError for bad input, BudgetError if the budget is too small, and KeyboardInterrupt when told to stop: the
    features of images that were read are then kept beside the knowledge file, and the same call goes on from there.
    """
    started_s = time.monotonic()
    artifact, output, before = places(options)
    make_folder(output.parent)
    with Interruption():
        make_allocator_predictable()
        dataset = None if options.data is None else open_dataset(Path(options.data), "train", None, None)
        val_path = validation_path(options)
        validation = None if val_path is None else open_dataset(val_path, "val", None, None)
        intensity = None if dataset is None else intensity_for(options.intensity, dataset, options.memory_budget)
        manifest = Artifact(artifact).manifest
        others = {path: load_knowledge(path, manifest) for path in paths(options.merge or [])}
        expected = what_to_expect(options, manifest, before, list(others.values()), dataset)
        expected = expected._replace(image_index=index_memory(manifest, dataset, validation))
        learner = Learner.expecting(learner_options(options, artifact), expected)
        progress = Progress(max(1, len(dataset) if dataset else 0), learner.plan.budget_bytes, options.quiet)
        progress.message(description(learner))
        if dataset is not None and (unused := unused_files(dataset)):
            progress.message(unused)
        if before is not None:
            learner.take_over(before)
        for path, other in others.items():
            learner.merge_with(other, path)
        for old, new in renamed(options):
            learner.rename(old, new)
        for what in options.forget or []:
            learner.forget(what)
        require_known_classes(validation, {*learner.classes, *(dataset.classes if dataset else [])})
        learned = Learned(0, 0, 0)
        if dataset is not None:
            if learner.intensity is None and intensity is not None:
                learner.intensity = intensity
            if learner.intensity is not None:
                progress.message(explained(learner.intensity))
            learned = learn_dataset(learner, dataset, partial_of(output), progress)
        if before is not None and before.trained is not None and learner.trained is None:
            progress.message("the trained adapter knows other classes, and is left out; train again to have one")
        if not learner.images:
            raise UserError("no image is left to learn from; give --data with images that can be read")
        validated = None
        if validation is not None:
            validated = (validate or evaluate_on)(validation.renumbered(learner.classes), learner)
        summary = dataclasses.replace(
            learner.summary(),
            new_images=learned.new,
            known_images=learned.known,
            skipped_images=learned.skipped,
            val_accuracy=validated["accuracy"] if validated else None,
            val_balanced_accuracy=validated.get("balanced_accuracy") if validated else None,
            val_loss=validated["loss"] if validated else None,
            seconds=time.monotonic() - started_s,
        )
        learner.save_with(output, summary)
        learner.drop_journal()
    written = dataclasses.replace(summary, seconds=time.monotonic() - started_s, peak_rss_bytes=peak_resident_bytes())
    return to_json(written) | {"skipped": dataset.skipped_names() if dataset else {}, "output": str(output)}


def places(options: LearnOptions) -> tuple[Path, Path, Knowledge | None]:
    """(artifact, knowledge file to write, what to go on from). Raises UserError where one is missing."""
    source, output = Path(options.source), optional_path(options.output)
    if not is_knowledge(source):
        if output is None:
            raise UserError("--output is missing; give the knowledge file to write, such as K.safetensors")
        if options.data is None:
            raise UserError(f"there is nothing to learn from {source} alone; give --data, or a knowledge file instead")
        return source, output, None
    if not any((options.data, options.val_data, options.forget, options.rename, options.merge)):
        raise UserError(f"there is nothing to do with {source}; give --data, --forget, --rename or --merge")
    artifact = optional_path(options.artifact) or artifact_of(source)
    return artifact, output or source, load_knowledge(source, Artifact(artifact).manifest)


def renamed(options: LearnOptions) -> list[tuple[str, str]]:
    """(old, new) of each --rename. Raises UserError for what is none."""
    pairs = []
    for text in options.rename or []:
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise UserError(f"--rename {text!r} is not OLD=NEW; write for example tulip=tulips")
        pairs.append((old, new))
    return pairs


def learner_options(options: LearnOptions, artifact: Path) -> LearnerOptions:
    return LearnerOptions(**{**common(options, LearnerOptions), "artifact": artifact})


def what_to_expect(
    options: LearnOptions,
    manifest: Manifest,
    before: Knowledge | None,
    others: list[Knowledge],
    dataset: Dataset | None,
) -> Expected:
    """What there will be to solve for, at most."""
    state: State = before.state if before else states.empty(Layout(options.codes, manifest.taps))
    images = int(state.counts.sum()) + (len(dataset) if dataset else 0)
    classes = {*state.classes, *(dataset.classes if dataset else [])}
    for other in others:
        images, classes = images + int(other.state.counts.sum()), classes | {*other.state.classes}
    folded = len(state.folded.labels) if state.folded else 0
    kept = min(images - folded, int(options.storage) // state.layout.row_bytes)
    groups = state.folded.groups if state.folded else (len(state.layout.taps) if kept < images else None)
    return Expected(kept, images - kept, groups, len(classes), before.trained if before else None)


def learn_dataset(learner: Learner, dataset: Dataset, journal: Path, progress: Progress) -> Learned:
    """Learns the images of a folder; their features are kept in `journal` until the knowledge file is written."""
    if problem := learner.keep_journal(journal):
        progress.message(problem)
    reads = read_once(
        dataset,
        learner.manifest.preprocessing,
        learner.is_known,
        queue_capacity(learner.plan.micro_batch_size),
        learner.plan.decode_limit_bytes,
        learner.intensity,
    )
    learned = learner.learn_reads(reads, progress.image)
    return learned._replace(skipped=learned.skipped + len(dataset.skipped))


def validation_path(options: LearnOptions) -> Path | None:
    """Where the validation images are; None where there are none."""
    data = optional_path(options.data)
    return optional_path(options.val_data) or (data if data is not None and has_split(data, "val") else None)


def require_known_classes(validation: Dataset | None, classes: set[str]) -> None:
    """Raises UserError, before any image is read, if there are validation images of classes that nothing teaches."""
    if validation is None:
        return
    unknown = sorted(set(validation.classes) - classes)
    if unknown:
        raise UserError(
            f"{validation.where} has validation images of {', '.join(unknown)}, of which nothing is learned; add "
            "images of these to --data, or take the folders away"
        )


def evaluate_on(validation: Dataset, learner: Learner) -> dict[str, Any]:
    """Accuracy and loss on the validation images."""
    return evaluate(learner.logits, learner.collator, validation)


def description(learner: Learner) -> str:
    plan = learner.plan
    return (
        f"{learner.manifest.model}: {learner.manifest.tap_count} features of {len(learner.manifest.taps)} statistics\n"
        f"budget {format_size(plan.budget_bytes)}, predicted peak {format_size(plan.predicted_peak_bytes)}: "
        f"{plan.micro_batch_size} images at a time" + (f"\n{NOTE}" if NOTE else "")
    )
