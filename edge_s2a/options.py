"""Defines every option once: type, default, bounds and help.

The command line (`cli/options.py`), the functions of the library (`library.py`), the reference pages and the record of
a run all derive from these dataclasses; `edge_s2a.option` is what makes them so.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from edge_s2a.artifact.intensity import intensity
from edge_s2a.errors import UserError
from edge_s2a.option import (
    AUTO,
    NATURAL,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Options,
    StrPath,
    option,
    options,
    paths,
    size,
    size_or_auto,
    three_numbers,
)

MEMORY_BUDGET = (
    "limit of the whole process's memory, such as 192MiB; auto: what the machine and its cgroup leave, less 10 % or "
    "32MiB, whichever is more"
)

CLASS_WEIGHTS = "balanced: every class counts alike, however many images it has"
NO_ADAPTER = "none"
MEANS, LEARNED = "means", "learned"  # where a training starts

# -- what several commands share ----------------------------------------------------------------------------


@options
class ArtifactOptions(Options):
    artifact: StrPath = option("artifact that pack wrote", kw_only=False, is_argument=True, metavar="F.s2a")


@options
class EngineOptions(Options):
    threads: int | None = option("threads of the engine; default: the cores it may use", default=None, bounds=POSITIVE)
    provider: str = option(
        "execution provider; the budget does not count a GPU's memory",
        default="cpu",
        choices=("cpu", "cuda", "tensorrt"),
    )


@options
class BudgetOptions(EngineOptions):
    memory_budget: int | str = option(
        MEMORY_BUDGET,
        default=AUTO,
        metavar="SIZE",
        convert=size_or_auto,
        record="memory_budget_bytes",
    )


@options
class IntensityOptions(Options):
    intensity: str = option(
        "LOW:HIGH, the values that are black and white in images of more than 8 bits; auto: from the bits that the "
        "training images use",
        default=AUTO,
        metavar="LOW:HIGH",
        convert=intensity,
        decides_result=True,
    )


@options
class BatchOptions(BudgetOptions):
    batch_size: int = option("images per optimizer step", default=16, bounds=POSITIVE, decides_result=True)
    optimizer: str = option(
        "optimizer; sgd has momentum 0.9", default="adamw", choices=("adamw", "sgd"), decides_result=True
    )


@options
class StepOptions(BatchOptions, IntensityOptions):
    """How steps are made, and what watches over them."""

    lr: float = option(
        "peak learning rate; with adamw the head takes at most 5e-4", default=2e-3, bounds=POSITIVE,
        decides_result=True,
    )  # fmt: skip
    weight_decay: float = option(
        "weight decay applied to matrices", default=0.01, bounds=NOT_NEGATIVE, decides_result=True
    )
    label_smoothing: float = option(
        "share of the target spread evenly over all classes", default=0.1, bounds=SHARE, decides_result=True
    )
    class_weights: str = option(CLASS_WEIGHTS, default="none", choices=("none", "balanced"), decides_result=True)
    metric: str = option(
        "what the best adapter is best in, on the validation images; balanced-accuracy: the mean of the classes' "
        "recalls",
        default="accuracy",
        choices=("accuracy", "balanced-accuracy"),
        decides_result=True,
    )
    clip_norm: float = option(
        "scale gradients with a larger norm down to this one; default: never", default=math.inf, bounds=POSITIVE,
        metavar="NORM", decides_result=True,
    )  # fmt: skip
    seed: int = option("seed of image order and augmentation", default=0, bounds=NATURAL, decides_result=True)
    checkpoint_minutes: float = option(
        "longest time between checkpoints; 0: after every step", default=10.0, bounds=NOT_NEGATIVE
    )
    max_temperature: float = option(
        "rest between steps above this temperature", default=80.0, bounds=POSITIVE, metavar="CELSIUS",
        record="max_temperature_c",
    )  # fmt: skip
    watchdog_minutes: float = option("end the process if one step takes longer", default=60.0, bounds=POSITIVE)


# -- one class per command ----------------------------------------------------------------------------------


@options
class PackOptions(Options):
    """`edge-s2a pack` and `edge_s2a.pack`."""

    model: str = option("name of a timm model", kw_only=False, is_argument=True)
    output: StrPath = option("artifact to write", kw_only=False, metavar="F.s2a")
    weights: StrPath | None = option("safetensors file, or torch file of tensors", default=None, alternatives="weights")
    pretrained: bool = option(
        "use timm's pretrained weights, which are downloaded", default=False, alternatives="weights"
    )
    model_kwargs: dict[str, Any] | None = option("arguments for timm's create_model", default=None, metavar="KEY=VALUE")
    num_classes: int | None = option("classes of the new head", default=None, bounds=POSITIVE, alternatives="classes")
    labels: Sequence[str] | None = option(
        "class names", default=None, metavar="FILE", is_text_file=True, alternatives="classes"
    )
    image_size: int | None = option(
        "height and width of the input; default: the model's own", default=None, bounds=POSITIVE
    )
    adapter: str = option(
        "kinds of adapters to train: bias, prompt, side, lowrank, with options as in lowrank:rank=4; s2a: "
        "bias+prompt+side; head: the head alone; none: nothing, the artifact only learns in one pass",
        default="bias",
        metavar="KIND[+KIND...]",
    )
    from_block: str = option(
        "number of the first block that adapters act in, or last:N; blocks before it are computed once for each image, "
        "and their output is kept",
        default="1",
        metavar="BLOCK",
        convert=str,
    )
    taps: str = option(
        "blocks whose statistics learn uses: auto, all, last:N, or numbers such as 2,4,6; more take more memory and "
        "time",
        default="auto",
        metavar="BLOCKS",
    )
    saved_bits: int | str = option(
        "bits of saved tensors; auto: 2, 4 or 8 for each, chosen by gradient error, 4 on average",
        default="4",
        choices=("2", "4", "8", "32", "auto"),
        convert=str,
    )
    levels: str = option(
        "levels of derivative codes; best: the one with the smaller error on the calibration images",
        default="best",
        choices=("uniform", "fitted", "best"),
    )
    calibration: StrPath | None = option(
        "images to measure activations on; default: synthetic ones", default=None, metavar="FOLDER"
    )
    mean: Sequence[float] | None = option(
        "mean of the input per channel; default: timm's", default=None, metavar="R G B", convert=three_numbers
    )
    std: Sequence[float] | None = option(
        "standard deviation of the input per channel; default: timm's", default=None, metavar="R G B",
        convert=three_numbers,
    )  # fmt: skip
    weight_format: str = option(
        "number format of frozen weights", default="int8", choices=("fp32", "fp16", "int8", "int4")
    )
    compute: str = option(
        "arithmetic of frozen linear layers, forward and backward; auto: int8 where its error on the "
        "calibration images is small",
        default="fp32",
        choices=("fp32", "int8", "auto"),
    )
    seed: int = option("seed of the new head", default=0, bounds=NATURAL)
    sign: StrPath | None = option(
        "sign the artifact with this PEM file of an Ed25519 private key", default=None, metavar="KEY"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.saved_bits == AUTO and self.calibration is None:
            # Measured: bits allocated on synthetic images err more on photos than 4 bits for all.
            raise UserError("--saved-bits auto measures on images of your kind; give a folder of them as --calibration")
        if self.adapter == NO_ADAPTER:
            if self.num_classes is not None or self.labels is not None:
                raise UserError(
                    "--adapter none has no head, and learns its classes from the images; leave out --num-classes and "
                    "--labels"
                )
        elif self.num_classes is None and self.labels is None:
            raise UserError("the number of classes is missing; give --num-classes N or --labels FILE")

    @property
    def class_count(self) -> int:
        """Classes of the new head; 0 without one."""
        if self.adapter == NO_ADAPTER:
            return 0
        return len(self.labels or ()) if self.num_classes is None else self.num_classes


@options
class PlanOptions(ArtifactOptions, BatchOptions):
    """`edge-s2a plan`."""

    learn: int | None = option(
        "plan for learning this number of images in one pass, instead of for training; an artifact without an adapter "
        "is planned so for 1000",
        default=None,
        bounds=POSITIVE,
        metavar="IMAGES",
    )
    classes: int = option("with learn, the number of classes", default=16, bounds=POSITIVE)
    images: int = option(
        "plan for training on a folder of this number of images, whose index takes memory, too", default=0,
        bounds=NATURAL,
    )  # fmt: skip

    memory_budget: int | str = option(
        MEMORY_BUDGET,
        metavar="SIZE",
        convert=size_or_auto,
    )


@options
class TrainerOptions(ArtifactOptions, StepOptions):
    """`edge_s2a.Trainer`."""

    classes: Sequence[str] | None = option(
        "class names, where the artifact has none", default=None, is_library_only=True
    )


@options
class TrainOptions(ArtifactOptions, StepOptions):
    """`edge-s2a train` and `edge_s2a.train`."""

    data: StrPath = option(
        "labelled images: an ImageFolder, with or without train/ and val/, a CSV table with path,label, or a .npz file",
        kw_only=False,
        metavar="DATA",
    )
    output: StrPath = option("folder for the results", kw_only=False, metavar="RUN")
    memory_budget: int | str = option(
        MEMORY_BUDGET,
        metavar="SIZE",
        convert=size_or_auto,
        record="memory_budget_bytes",
    )
    val_data: StrPath | None = option("validation images; default: DATA/val", default=None, alternatives="validation")
    val_split: float | None = option(
        "where there are no validation images, this share of the training images of each class, chosen by --seed",
        default=None,
        bounds=SHARE,
        alternatives="validation",
        decides_result=True,
    )
    epochs: int = option("passes over the images", default=15, bounds=POSITIVE, decides_result=True)
    warmup_epochs: float = option(
        "epochs in which the learning rate rises to its peak", default=1.0, bounds=NOT_NEGATIVE, decides_result=True
    )
    augment: str = option(
        "random changes to training images; crop includes flip",
        default="none",
        choices=("none", "flip", "crop"),
        decides_result=True,
    )
    balance: bool = option(
        "show images of each class equally often, those of rare classes several times in an epoch",
        default=False,
        decides_result=True,
    )
    init_adapter: StrPath | None = option(
        "begin with this trained adapter instead of with class means", default=None, metavar="ADAPTER"
    )
    patience: int | None = option(
        "end after this number of epochs without a better adapter on the validation images; default: never",
        default=None,
        bounds=POSITIVE,
        metavar="EPOCHS",
    )
    feature_cache: int | str | None = option(
        "size of RUN/features.cache, for artifacts that train nothing inside the backbone: epochs after the first "
        "skip the backbone; default: 512MiB; 0: no cache",
        default=None,
        metavar="SIZE",
        convert=size,
        record="feature_cache_bytes",
    )
    start: str = option(
        "learned: first learn in one pass, then train on three images of four, and keep of both what the others say "
        "is best; auto: the same where there are images and memory for it; means: train alone, from class means",
        default=MEANS,
        choices=(AUTO, LEARNED, MEANS),
        decides_result=True,
    )
    resume: bool = option("continue from RUN/checkpoint", default=False)
    resume_or_start: bool = option(
        "continue from RUN/checkpoint if there is one, otherwise start a new run; for services", default=False
    )
    # On the command line an option of every command.
    quiet: bool = option("print nothing but errors", default=False, is_library_only=True)
    on_step: Callable[[dict], None] | None = option(
        "called after each step with its line of metrics.jsonl", default=None, is_library_only=True, record=""
    )


@options
class KnowledgeOptions(BudgetOptions, IntensityOptions):
    """How a device learns in one pass."""

    storage: int | str = option(
        "size of the features that the knowledge file keeps; those of the oldest images beyond it are folded into sums",
        default="64MiB",
        metavar="SIZE",
        convert=size,
        record="storage_bytes",
    )
    codes: str = option("how features are kept", default="float16", choices=("float16", "int8"))
    class_weights: str = option(CLASS_WEIGHTS, default="none", choices=("none", "balanced"))
    adapter: StrPath | None = option(
        "learn from the model with this trained adapter, such as RUN/best.safetensors", default=None
    )


@options
class LearnerOptions(ArtifactOptions, KnowledgeOptions):
    """`edge_s2a.Learner`."""


@options
class LearnOptions(KnowledgeOptions):
    """`edge-s2a learn` and `edge_s2a.learn`."""

    source: StrPath = option(
        "artifact to begin with, or a knowledge file to go on from", kw_only=False, is_argument=True, metavar="F.s2a|K"
    )
    data: StrPath | None = option(
        "labelled images to learn: an ImageFolder, with or without train/ and val/, a CSV table with path,label, or a "
        ".npz file",
        default=None,
        kw_only=False,
        metavar="DATA",
    )
    output: StrPath | None = option(
        "knowledge file to write; default: the one to go on from", default=None, kw_only=False, metavar="K"
    )
    artifact: StrPath | None = option(
        "artifact of the knowledge file, where it no longer lies where it was", default=None, metavar="F.s2a"
    )
    val_data: StrPath | None = option("validation images; default: DATA/val", default=None)
    forget: Sequence[str] | None = option(
        "forget these classes, or single images by the first digits of the SHA-256 of their files",
        default=None,
        metavar="CLASS|DIGEST",
    )
    rename: Sequence[str] | None = option(
        "give a class another name; that of another class makes one of both", default=None, metavar="OLD=NEW"
    )
    merge: Sequence[StrPath] | None = option(
        "add what other devices learned with the same artifact", default=None, metavar="OTHER", convert=paths
    )
    # On the command line an option of every command.
    quiet: bool = option("print nothing but errors", default=False, is_library_only=True)


@options
class EvalOptions(ArtifactOptions, BudgetOptions):
    """`edge-s2a eval`."""

    adapter: StrPath = option("adapter file, such as RUN/best.safetensors, or knowledge file")
    data: StrPath = option(
        "labelled images: an ImageFolder, with or without train/ and val/, a CSV table with path,label, or a .npz file"
    )


@options
class PredictOptions(ArtifactOptions, BudgetOptions):
    """`edge-s2a predict`."""

    images: Sequence[StrPath] = option("image files", kw_only=False, is_argument=True, metavar="IMAGE", convert=paths)
    adapter: StrPath = option("adapter file, such as RUN/best.safetensors, or knowledge file")
    top: int = option("classes per image", default=1, bounds=POSITIVE)
    unknown: float | None = option(
        'say "none of these" where an image is unlike all that was learned; this share of images of known classes '
        "is refused by mistake, such as 0.05; needs a knowledge file",
        default=None,
        bounds=SHARE,
        metavar="RATE",
    )


@options
class CheckOptions(ArtifactOptions, EngineOptions):
    """`edge-s2a check`."""


@options
class ExportOptions(ArtifactOptions):
    """`edge-s2a export` and `edge_s2a.export`."""

    adapter: StrPath = option("adapter file, such as RUN/best.safetensors, or knowledge file", kw_only=False)
    output: StrPath = option("file or folder to write", kw_only=False, metavar="PATH")
    format: str = option(
        "onnx: inference, one file; onnx-features: what learning in one pass sees, of a knowledge file; timm: state "
        "dict of the timm model; torch: state dict of the adapted module; peft: PEFT folder; ort-training: folder for "
        "onnxruntime-training's API",
        default="onnx",
        choices=("onnx", "onnx-features", "timm", "torch", "peft", "ort-training"),
        kw_only=False,
    )
    int8: bool = option(
        "with onnx or onnx-features, write frozen weights as the artifact holds them", default=False, kw_only=False
    )
    opset: int | None = option(
        "with onnx, the version of the operators; default: the lowest that the model can have, 17 as a rule",
        default=None,
        bounds=POSITIVE,
        kw_only=False,
    )
    fp16: bool = option(
        "with onnx, compute in half precision between float32 images and results", default=False, kw_only=False
    )
    batch: int | None = option(
        "with onnx, images at once; default: any number", default=None, bounds=POSITIVE, kw_only=False
    )
    threads: int | None = option(
        "threads of the engine that checks the result; default: the cores that it may use",
        default=None,
        bounds=POSITIVE,
        kw_only=False,
        is_library_only=True,
    )


@options
class ImportAdapterOptions(ArtifactOptions):
    """`edge-s2a import-adapter`."""

    torch: StrPath = option(
        "state dict, safetensors or torch file, of the module that edge_s2a.load_module makes from the artifact",
        metavar="STATE",
    )
    output: StrPath = option("adapter file to write", metavar="ADAPTER")
    labels: Sequence[str] | None = option(
        "class names, if the artifact has none", default=None, metavar="FILE", is_text_file=True
    )


@options
class InspectOptions(ArtifactOptions):
    """`edge-s2a inspect`."""


@options
class ShownOptions(Options):
    """What is shown, now or afterwards."""

    source: StrPath = option(
        "folder that train wrote, or knowledge file that learn writes", kw_only=False, is_argument=True, metavar="RUN|K"
    )


@options
class WatchOptions(ShownOptions):
    """`edge-s2a watch`."""

    once: bool = option("show one frame and end, as when standard output is not a terminal", default=False)


@options
class ReportOptions(ShownOptions):
    """`edge-s2a report`."""

    output: StrPath | None = option(
        "folder for the page; default: RUN/report, or K.report beside a knowledge file K",
        default=None,
        metavar="FOLDER",
    )
    tensorboard: StrPath | None = option(
        "write the TensorBoard events of a run to this folder instead", default=None, metavar="FOLDER"
    )


@options
class QuickstartOptions(Options):
    """`edge-s2a quickstart`."""

    output: StrPath = option("folder for all files", default="runs/quickstart")
    memory_budget: str = option("bound of the training process", default="128MiB", metavar="SIZE")


@options
class CompletionOptions(Options):
    """`edge-s2a completion`."""

    shell: str = option("shell that reads the script", kw_only=False, is_argument=True, choices=("bash", "zsh", "tcsh"))
