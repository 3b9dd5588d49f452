"""Defines what an option is, a field of a frozen dataclass that knows its help and bounds, and what derives from it.

`edge_s2a.options` has all of them. Needs nothing but Python: `edge-s2a --help` must be quick.
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


def takes_none(entry: dataclasses.Field[Any]) -> bool:
    declared: Any = entry.type
    return isinstance(declared, types.UnionType) and types.NoneType in get_args(declared)


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
            if value is None and not takes_none(entry):
                raise UserError(f"{entry.name} is None; give a value, or leave it out")
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


def record(values: Options, admit: Callable[[Option], bool] = lambda about: about.record != "") -> dict[str, Any]:
    """The options that `admit` takes, by their keys in a run's record, values as they are."""
    return {
        about.record or entry.name: getattr(values, entry.name)
        for entry, about in described(type(values))
        if admit(about)
    }


def result_options(values: Options) -> dict[str, Any]:
    """The options that decide what is trained, by their keys in a run's record."""
    return record(values, lambda about: about.decides_result)


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
    numbers = tuple(float(value) for value in values)
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"{values!r} are not three finite numbers")
    return numbers


def optional_path(value: StrPath | None) -> Path | None:
    return None if value is None else Path(value)


def paths(values: Sequence[str | os.PathLike]) -> list[Path]:
    return [Path(value) for value in values]


def common(values: Options, cls: type[O]) -> dict[str, Any]:
    """Those options that `cls` has, too, by name."""
    return {entry.name: getattr(values, entry.name) for entry, _ in described(cls) if hasattr(values, entry.name)}
