"""Defines every option once: type, default, bounds and help.

The command line (`cli/options.py`), the keyword arguments of the library (`accepting`), the reference pages and the
record of a run all derive from the dataclasses below. Needs nothing but Python: `edge-s2a --help` must be quick.
"""

import dataclasses
import math
import os
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar, get_args, get_origin

from edge_s2a.errors import UserError
from edge_s2a.sizes import parse_size

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda decorator: decorator


StrPath = str | os.PathLike[str]
AUTO = "auto"
MEMORY_BUDGET = (
    "limit of the whole process's memory, such as 192MiB; auto: what the machine and its cgroup leave, less 10 % or "
    "32MiB, whichever is more"
)
REQUIRED = dataclasses.MISSING


class Bounds(NamedTuple):
    """The values that an option may take."""

    admit: Callable[[Any], bool]
    violation: str  # what a value outside is


POSITIVE = Bounds(lambda value: 0 < value < math.inf, "is not a positive number")
NOT_NEGATIVE = Bounds(lambda value: 0 <= value < math.inf, "is negative or infinite")
NATURAL = Bounds(lambda value: value >= 0, "is negative")
SHARE = Bounds(lambda value: 0 <= value < 1, "is not in [0, 1)")


@dataclass(frozen=True)
class Option:
    """What is known of an option besides its name, type and default, which are those of its field."""

    help: str
    bounds: Bounds | None = None
    choices: tuple[str, ...] = ()
    metavar: str | None = None  # of a sequence: as many words as it has items
    convert: Callable[[Any], Any] | None = None  # to the value that the field holds, from all that it accepts
    is_argument: bool = False  # on the command line, a word without a flag
    is_text_file: bool = False  # on the command line, a text file with one item of the sequence per line
    is_library_only: bool = False
    alternatives: str | None = None  # of all options with the same value here, the command line takes one at most
    record: str | None = None  # the key in a run's record, if not the field's name; "": not recorded
    decides_result: bool = False  # a resumed run must agree in it


def option(help: str, *, default: Any = REQUIRED, kw_only: bool = True, **properties: Any) -> Any:
    """The field of an option; `properties` are those of `Option`."""
    return field(default=default, kw_only=kw_only, metadata={"option": Option(help, **properties)})


C = TypeVar("C")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option,))
def options(cls: type[C]) -> type[C]:
    """Makes a frozen dataclass of a class of options."""
    return dataclass(frozen=True, eq=False, repr=False)(cls)


def described(cls: type) -> Iterator[tuple[dataclasses.Field[Any], Option]]:
    """The options of a class, in the order of its fields."""
    for entry in dataclasses.fields(cls):
        if "option" in entry.metadata:
            yield entry, entry.metadata["option"]


def declared_type(entry: dataclasses.Field[Any]) -> Any:
    """The type of an option's value; of `X | None` it is X, of a path Path."""
    declared: Any = entry.type
    if declared in (StrPath, StrPath | None):
        return Path
    if isinstance(declared, types.UnionType):
        return next(kind for kind in get_args(declared) if kind is not types.NoneType)
    return declared


def value_type(entry: dataclasses.Field[Any]) -> Any:
    """The same as a class: of Sequence[float] it is Sequence."""
    declared = declared_type(entry)
    return get_origin(declared) or declared


@options
class Options:
    """Converts and checks all options when they are given. Raises UserError that names the option."""

    def __post_init__(self) -> None:
        for entry, about in described(type(self)):
            value = getattr(self, entry.name)
            if value is not None:
                object.__setattr__(self, entry.name, checked(entry, about, value))


def checked(entry: dataclasses.Field[Any], about: Option, value: Any) -> Any:
    """The value as the field holds it. Raises UserError where it is of another type or out of bounds."""
    kind = value_type(entry)
    if about.convert is not None:
        value = about.convert(value)
    elif kind is Path and isinstance(value, str | os.PathLike):
        value = Path(value)
    elif kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    elif kind in (int, float, bool, str, Path) and (
        not isinstance(value, kind) or (kind is int and isinstance(value, bool))
    ):
        raise UserError(f"{entry.name}: {value!r} is not of type {kind.__name__}")
    if about.choices and value not in about.choices:
        raise UserError(f"{entry.name} {value!r} is unknown; choose one of {', '.join(about.choices)}")
    if about.bounds is not None and value != entry.default and not about.bounds.admit(value):
        raise UserError(f"{entry.name}: {value} {about.bounds.violation}")
    return value


def record(values: Options) -> dict[str, Any]:
    """The options by their keys in a run's record, values as they are."""
    return {
        about.record or entry.name: getattr(values, entry.name)
        for entry, about in described(type(values))
        if about.record != ""
    }


def result_options(values: Options) -> dict[str, Any]:
    """The options that decide what is trained, by their keys in a run's record."""
    return {
        about.record or entry.name: getattr(values, entry.name)
        for entry, about in described(type(values))
        if about.decides_result
    }


P = ParamSpec("P")
O = TypeVar("O", bound=Options)  # noqa: E741
R = TypeVar("R")
S = TypeVar("S")


def accepting(cls: Callable[P, O]) -> Callable[[Callable[[O], R]], Callable[P, R]]:
    """Makes a function of an options object a function of its fields, as positional and keyword arguments, which its
    docstring lists."""

    def decorate(function: Callable[[O], R]) -> Callable[P, R]:
        def with_keywords(*arguments: P.args, **keywords: P.kwargs) -> R:
            return function(cls(*arguments, **keywords))

        return documented(with_keywords, function, cls)

    return decorate


def constructor(cls: Callable[P, O]) -> Callable[[Callable[[S, O], None]], Callable[Concatenate[S, P], None]]:
    """The same for an __init__ that takes an options object."""

    def decorate(function: Callable[[S, O], None]) -> Callable[Concatenate[S, P], None]:
        def with_keywords(self: S, *arguments: P.args, **keywords: P.kwargs) -> None:
            function(self, cls(*arguments, **keywords))

        return documented(with_keywords, function, cls)

    return decorate


def documented(wrapper: Callable[..., R], function: Callable[..., Any], cls: Any) -> Callable[..., R]:
    """`wrapper` with name and docstring of `function`, and signature and help of the options `cls`."""
    import inspect

    wrapper.__name__, wrapper.__qualname__ = function.__name__, function.__qualname__
    wrapper.__module__ = function.__module__
    wrapper.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nOptions:\n\n{describe(cls)}\n"
    taken, fields = inspect.signature(function), inspect.signature(cls).parameters.values()
    *before, _ = taken.parameters.values()  # before the options: self, if at all
    wrapper.__signature__ = taken.replace(parameters=[*before, *fields])  # type: ignore[attr-defined]
    return wrapper


def describe(cls: type) -> str:
    """One line per option, in the order of the signature: name, help and default."""
    lines = []
    for entry, about in sorted(described(cls), key=lambda option: option[0].kw_only is True):
        has_none = any(entry.default is none for none in (REQUIRED, None, False))
        default = "" if has_none or "default" in about.help else f" (default: {entry.default})"
        lines.append(f"- `{entry.name}`: {about.help}{default}")
    return "\n".join(lines)


def size_or_auto(value: str | int) -> str | int:
    """Bytes, or "auto"."""
    return value if value == AUTO else size(value)


def size(value: str | int) -> int:
    """Bytes."""
    if isinstance(value, str):
        return parse_size(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{value!r} is not a size; give bytes, or text such as 192MiB")
    return value


def three_numbers(values: Sequence[float]) -> tuple[float, ...]:
    if isinstance(values, str) or len(values) != 3:
        raise UserError(f"{values!r} are not three numbers, one per channel: red, green, blue")
    return tuple(float(value) for value in values)


def optional_path(value: StrPath | None) -> Path | None:
    return None if value is None else Path(value)


def paths(values: Sequence[str | os.PathLike]) -> list[Path]:
    return [Path(value) for value in values]


def common(values: Options, cls: type[O]) -> dict[str, Any]:
    """Those options that `cls` has, too, by name."""
    return {entry.name: getattr(values, entry.name) for entry, _ in described(cls) if hasattr(values, entry.name)}


# -- what several commands share ----------------------------------------------------------------------------


@options
class ArtifactOptions(Options):
    artifact: StrPath = option("artifact that pack wrote", kw_only=False, is_argument=True, metavar="F.s2a")


@options
class EngineOptions(Options):
    threads: int | None = option("threads of the engine; default: the physical cores", default=None, bounds=POSITIVE)
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
class BatchOptions(BudgetOptions):
    batch_size: int = option("images per optimizer step", default=16, bounds=POSITIVE, decides_result=True)
    optimizer: str = option(
        "optimizer; sgd has momentum 0.9", default="adamw", choices=("adamw", "sgd"), decides_result=True
    )


@options
class StepOptions(BatchOptions):
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
        "bias+prompt+side; head: the head alone",
        default="bias",
        metavar="KIND[+KIND...]",
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
        if self.num_classes is None and self.labels is None:
            raise UserError("the number of classes is missing; give --num-classes N or --labels FILE")

    @property
    def class_count(self) -> int:
        """Classes of the new head."""
        return len(self.labels or ()) if self.num_classes is None else self.num_classes


@options
class PlanOptions(ArtifactOptions, BatchOptions):
    """`edge-s2a plan`."""

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
        "labelled images: an ImageFolder, with or without train/ and val/, or a .npz file",
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
    val_data: StrPath | None = option("validation images; default: DATA/val", default=None)
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
    feature_cache: int | str | None = option(
        "size of RUN/features.cache, for artifacts that train nothing inside the backbone: epochs after the first "
        "skip the backbone; default: 512MiB; 0: no cache",
        default=None,
        metavar="SIZE",
        convert=size,
        record="feature_cache_bytes",
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
class EvalOptions(ArtifactOptions, BudgetOptions):
    """`edge-s2a eval`."""

    adapter: StrPath = option("adapter file, such as RUN/best.safetensors")
    data: StrPath = option("labelled images: an ImageFolder, with or without train/ and val/, or a .npz file")


@options
class PredictOptions(ArtifactOptions, BudgetOptions):
    """`edge-s2a predict`."""

    images: Sequence[StrPath] = option("image files", kw_only=False, is_argument=True, metavar="IMAGE", convert=paths)
    adapter: StrPath = option("adapter file, such as RUN/best.safetensors")
    top: int = option("classes per image", default=1, bounds=POSITIVE)


@options
class CheckOptions(ArtifactOptions, EngineOptions):
    """`edge-s2a check`."""


@options
class ExportOptions(ArtifactOptions):
    """`edge-s2a export` and `edge_s2a.export`."""

    adapter: StrPath = option("adapter file, such as RUN/best.safetensors", kw_only=False)
    output: StrPath = option("file or folder to write", kw_only=False, metavar="PATH")
    format: str = option(
        "onnx: inference, one file; timm: state dict of the timm model; torch: state dict of the adapted module; peft: "
        "PEFT folder; ort-training: folder for onnxruntime-training's API",
        default="onnx",
        choices=("onnx", "timm", "torch", "peft", "ort-training"),
        kw_only=False,
    )
    int8: bool = option("with onnx, write frozen weights as the artifact holds them", default=False, kw_only=False)
    threads: int | None = option(
        "threads of the engine that checks the result; default: the physical cores",
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
class RunFolderOptions(Options):
    """What shows a run, now or afterwards."""

    run_folder: StrPath = option("folder that train wrote", kw_only=False, is_argument=True, metavar="RUN")


@options
class WatchOptions(RunFolderOptions):
    """`edge-s2a watch`."""

    once: bool = option("show one frame and end, as when standard output is not a terminal", default=False)


@options
class ReportOptions(RunFolderOptions):
    """`edge-s2a report`."""

    output: StrPath | None = option("folder for the page; default: RUN/report", default=None, metavar="FOLDER")
    tensorboard: StrPath | None = option(
        "write TensorBoard events to this folder instead", default=None, metavar="FOLDER"
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
