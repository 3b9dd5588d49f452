"""Defines what a run leaves in its folder, and learning in one pass beside a knowledge file: the names of the files and
the types of the records in them.

Who writes, reads, watches and reports a run uses these types; `edge_s2a.run.convert` makes JSON of them and reads it
again. docs/RUN.md documents the same for users. Sizes are in bytes, `seconds` in seconds, `temperature_c` in degrees
Celsius. Where an annotation allows None although a run always writes a value, a reader may meet a file without it.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from edge_s2a.run.convert import decimals, from_json, significant

RUN, METRICS, PREDICTIONS, SUMMARY = "run.json", "metrics.jsonl", "predictions.jsonl", "summary.json"
ADAPTER, BEST = "adapter.safetensors", "best.safetensors"
# Of a training that starts from what was learned in one pass.
LEARNED_FIRST, ANSWERS, TRIAL = "learned.safetensors", "answers.safetensors", "trial"
CHECKPOINT, FEATURES, LOCK = "checkpoint", "features.cache", "lock"
# After the name of a knowledge file: features of images on their way into it, and what `predict` saw last.
PARTIAL, RECENT = ".partial", ".recent.json"


# -- metrics.jsonl: one JSON object per line, by kind --------------------------------------------------
# `epoch` counts from 1, `step` counts optimizer steps over the whole run.


@dataclass(frozen=True)
class StepLine:
    """An optimizer step whose loss and gradient were finite."""

    kind: ClassVar[str] = "step"
    epoch: int
    step: int
    loss: float = field(metadata=decimals(6))  # mean over the step's images, with label smoothing
    gradient_norm: float | None = field(metadata=significant(6))
    accuracy: float = field(metadata=decimals(4))
    lr: float
    images_per_s: float = field(metadata=decimals(2))
    rss_bytes: int  # of the process after the step
    seconds: float = field(metadata=decimals(4))
    temperature_c: float | None = None  # of the hottest zone after the step, where the device tells


@dataclass(frozen=True)
class EpochLine:
    """An epoch and its validation. A loss or accuracy is None where there was nothing to compute it from."""

    kind: ClassVar[str] = "epoch"
    epoch: int
    train_loss: float | None
    train_accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    skipped_images: int | None  # so far
    peak_rss_bytes: int | None  # so far
    val_balanced_accuracy: float | None = None  # mean of the recalls of the classes


@dataclass(frozen=True)
class SkippedLine:
    """A step that changed nothing, because its loss or gradient was not finite."""

    kind: ClassVar[str] = "skipped"
    epoch: int | None
    step: int | None
    reason: str | None


@dataclass(frozen=True)
class RestoredLine:
    """A return to the best adapter so far, with a smaller share of the learning rate from there on."""

    kind: ClassVar[str] = "restored"
    epoch: int | None
    step: int | None
    reason: str | None
    rate_share: float | None


@dataclass(frozen=True)
class RestLine:
    """A rest after a step, because the device was too hot or its power was short."""

    kind: ClassVar[str] = "rest"
    epoch: int | None
    step: int | None
    seconds: float | None = field(metadata=decimals(3))
    temperature_c: float | None
    is_power_short: bool


@dataclass(frozen=True)
class PressureLine:
    """A stop because memory had become scarce; the run goes on within `budget_bytes`."""

    kind: ClassVar[str] = "pressure"
    step: int | None
    attainable_bytes: int | None
    rss_bytes: int | None
    budget_bytes: int | None


Event = SkippedLine | RestoredLine | RestLine | PressureLine
MetricsLine = StepLine | EpochLine | Event
LINES: tuple[type[MetricsLine], ...] = (StepLine, EpochLine, SkippedLine, RestoredLine, RestLine, PressureLine)
_LINE_OF_KIND: dict[str, type[MetricsLine]] = {line.kind: line for line in LINES}


def metrics_line(values: object) -> MetricsLine | None:
    """Returns the record of a line of metrics.jsonl; None if its kind is not known or a required number is missing."""
    kind = values.get("kind") if isinstance(values, dict) else None
    line = _LINE_OF_KIND.get(kind) if isinstance(kind, str) else None
    return None if line is None else from_json(line, values)


# -- predictions.jsonl: one JSON object per image ------------------------------------------------------


@dataclass(frozen=True)
class PredictionLine:
    """What the last validation predicted for an image."""

    image: str  # below the folder of the validation data; its number in a .npz
    label: str
    predicted: str
    probability: float | None = field(metadata=decimals(6))  # of the predicted class; None where it is not finite


# -- run.json ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArtifactFacts:
    """The artifact that is trained; the fields are those of its manifest (docs/FORMAT.md)."""

    model: str | None
    model_kwargs: dict[str, Any]
    adapter: str | None  # its kinds, joined by "+"
    saved_bits: str | None
    mean_saved_bits: float | None
    levels: str | None
    weight_format: str | None
    int8_layers: int | None  # how many
    image_size: list[int]  # height, width
    trainable_parameters: int | None
    total_parameters: int | None
    saved_bytes_per_image: int | None
    file_bytes: int | None
    format_version: int | None
    model_digest: str | None


@dataclass(frozen=True)
class SplitFacts:
    """Where the images of a split are, as an absolute path, and how many there are."""

    where: str | None
    images: int | None


@dataclass(frozen=True)
class DataFacts:
    """The data; val is None where nothing is validated."""

    train: SplitFacts
    val: SplitFacts | None


@dataclass(frozen=True)
class PlanFacts:
    """The memory plan, as `edge_s2a.device.memory.budget.MemoryPlan` has it."""

    budget_bytes: int | None
    batch_size: int | None
    micro_batch_size: int | None
    predicted_peak_bytes: int | None
    minimum_budget_bytes: int | None
    streams_weights: bool
    parts: dict[str, int]  # bytes, of predicted_peak_bytes
    arena_bytes: int | None


@dataclass(frozen=True)
class MachineFacts:
    """The machine that trains."""

    architecture: str | None
    system: str | None  # name and release of the kernel
    cores: int | None
    memory_bytes: int | None


@dataclass(frozen=True)
class RunFacts:
    """What a run says of itself when it starts or resumes: the whole of run.json."""

    started: str | None  # ISO 8601, UTC, of this process
    settings: dict[str, Any]  # the options of `edge-s2a train`
    artifact: ArtifactFacts
    data: DataFacts
    classes: list[str]  # in the order of the logits
    plan: PlanFacts
    providers: list[str]  # what the engine computes on
    machine: MachineFacts
    versions: dict[str, str]  # package -> version
    steps: int | None  # optimizer steps of the whole run
    resumed_at_step: int | None  # optimizer steps done when this process started


# -- summary.json --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ComparedFacts:
    """What held-out training images say of the classifier that was learned in one pass, of an adapter that was trained
    without them for a third of the epochs, and of the average of both; and what RUN/best.safetensors holds after
    that."""

    images: int | None  # held out
    share: float | None  # of the trained adapter in the average: 0 where it is left out, 1 where it is alone
    learned_accuracy: float | None
    trained_accuracy: float | None
    accuracy: float | None  # of the average
    learned_seconds: float | None = field(metadata=decimals(3))  # that learning in one pass took
    learned_peak_rss_bytes: int | None
    learned_val_accuracy: float | None  # of the classifier that was learned in one pass; None without validation
    val_accuracy: float | None  # of RUN/best.safetensors; None without validation


@dataclass(frozen=True)
class Summary:
    """How a finished run ended: the whole of summary.json."""

    steps: int | None
    epochs: int | None
    train_loss: float | None  # of the last epoch; None where no step was finite
    val_accuracy: float | None  # None without validation
    val_balanced_accuracy: float | None  # mean of the recalls of the classes
    val_recall: dict[str, float]  # class -> share of its images that are right, of those that have some
    best_accuracy: float | None  # in what --metric names
    seconds: float | None = field(metadata=decimals(3))  # in all, of all processes of the run
    seconds_per_step: float | None = field(metadata=decimals(4))
    peak_rss_bytes: int | None
    excess_bytes: int | None  # the most by which a process of the run exceeded its memory budget
    predicted_peak_bytes: int | None
    budget_bytes: int | None
    batch_size: int | None
    micro_batch_size: int | None
    rate_share: float | None  # of the learning rate that was asked for, left at the end
    trainable_parameters: int | None
    total_parameters: int | None
    classes: list[str]
    skipped_images: int | None
    skipped: dict[str, str]  # image -> why it could not be used
    output: str | None  # the folder of the run
    compared: ComparedFacts | None = None  # None where the training did not start from what was learned in one pass


# -- learning in one pass ------------------------------------------------------------------------------


@dataclass(frozen=True)
class LearningSummary:
    """What was learned in one pass: the record in a knowledge file. It names neither files nor folders, because a
    knowledge file travels."""

    model: str | None
    started: str | None  # ISO 8601, UTC, of the process that learned last
    images: int | None  # that were learned
    new_images: int | None  # of them, by the last command; None where a program learned
    known_images: int | None  # that the last command was given, and had been learned before
    skipped_images: int | None  # that the last command could not use
    kept_images: int | None  # whose features are in the file
    folded_images: int | None  # of which only sums are left
    classes: dict[str, int]  # class -> images, sorted by name
    features: int | None  # of an image
    used_features: int | None  # of them, by the classifier
    codes: str | None  # how features are kept
    storage_bytes: int | None  # that kept features may take
    class_weights: str | None
    form: str | None  # "dual" or "primal"
    ridge: float | None  # lambda
    temperature: float | None
    left_out_accuracy: float | None  # of images that were left out of the classifier; None where none could be
    left_out_loss: float | None  # their mean cross-entropy
    calibration_error: float | None  # expected, of their probabilities
    confusion: list[list[int]]  # [class][likeliest class]: left-out images; [] where none was, or for too many classes
    val_accuracy: float | None  # None without validation
    val_balanced_accuracy: float | None  # mean of the recalls of the classes
    val_loss: float | None
    seconds: float | None = field(metadata=decimals(3))  # of the last command; None where a program learned
    predicted_peak_bytes: int | None
    peak_rss_bytes: int | None
    budget_bytes: int | None
    micro_batch_size: int | None
    parts: dict[str, int]  # bytes, of predicted_peak_bytes


@dataclass(frozen=True)
class RecentDrift:
    """How far the images of the last `predict` are from those that were learned."""

    time: str | None  # ISO 8601, UTC
    images: int
    statistic: float = field(metadata=significant(6))
    threshold: float = field(metadata=significant(6))  # of the statistic
    drifted: bool  # whether the statistic exceeds the threshold
