"""Converts records, which are frozen dataclasses of plain values, to JSON values and back.

What a record's fields are follows from their annotations. Reading is tolerant, because a file may be torn, of another
version or not ours at all: unknown keys are ignored, and a value of the wrong type counts as missing.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

R = TypeVar("R")
Read = Callable[[object], Any]  # returns the value that it gets as a field holds it, None for a value of another type
LARGEST = 1e18  # numbers of a greater size are taken for damage: nothing here can be computed with them
WRITTEN = "written"  # metadata of a field: the function that rounds its value for the file


def decimals(count: int) -> dict[str, Callable[[float], float]]:
    """Returns the metadata of a field that is written with so many decimals."""
    return {WRITTEN: lambda value: round(value, count)}


def significant(digits: int) -> dict[str, Callable[[float], float]]:
    """Returns the metadata of a field that is written with so many significant digits."""
    return {WRITTEN: lambda value: float(f"{value:.{digits}g}")}


def to_json(record: Any) -> dict[str, Any]:
    """Returns the JSON object of a record: its kind, if it has one, then its fields in their order.

    Values are rounded as the metadata of their fields say. None is left out where it is the field's default, and
    otherwise written.
    """
    values: dict[str, Any] = {"kind": record.kind} if hasattr(record, "kind") else {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if value is None and field.default is None:
            continue
        if value is not None and WRITTEN in field.metadata:
            value = field.metadata[WRITTEN](value)
        values[field.name] = to_json(value) if dataclasses.is_dataclass(value) else value
    return values


def from_json(cls: type[R], values: object) -> R | None:
    """Returns the record of type `cls` that a JSON value holds; None if it is no object or lacks a required field.

    A number or a text is required unless its annotation allows None. What is missing otherwise is None, False, an empty
    list, an empty dictionary, or a record in which everything is missing. Never raises.
    """
    if not isinstance(values, dict):
        return None
    fields: dict[str, Any] = {}
    record_type: Any = cls
    for field in _fields(record_type):
        value = field.read(values.get(field.name))
        if value is None and field.is_required:
            return None
        fields[field.name] = field.missing() if value is None else value
    return cls(**fields)


class _Field(NamedTuple):
    """How to read a field of a record."""

    name: str
    read: Read
    is_required: bool
    missing: Callable[[], Any]  # makes the value of a field that is missing and not required


@functools.cache
def _fields(cls: Any) -> list[_Field]:
    hints = typing.get_type_hints(cls)
    found = []
    for field in dataclasses.fields(cls):
        kind, is_optional = _without_none(hints[field.name])
        is_required = not is_optional and kind in (int, float, str)
        found.append(_Field(field.name, _reader(kind), is_required, _missing(kind, is_optional)))
    return found


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """Returns (T, True) for `T | None`, (T, False) for any other T."""
    if not isinstance(annotation, types.UnionType):
        return annotation, False
    (kind,) = (part for part in typing.get_args(annotation) if part is not types.NoneType)
    return kind, True


def _missing(kind: Any, is_optional: bool) -> Callable[[], Any]:
    if is_optional or kind in (int, float, str):
        return lambda: None
    if dataclasses.is_dataclass(kind):
        return lambda: from_json(typing.cast(type, kind), {})
    return typing.get_origin(kind) or kind  # bool, list, dict


def _reader(kind: Any) -> Read:
    if kind is int:
        return whole_number
    if kind is float:
        return number
    if dataclasses.is_dataclass(kind):
        return lambda value: from_json(typing.cast(type, kind), value)
    if typing.get_origin(kind) is list:
        (part,) = typing.get_args(kind)
        return _list_reader(_reader(part))
    if typing.get_origin(kind) is dict:
        _, part = typing.get_args(kind)
        return _instance_reader(dict) if part is Any else _dict_reader(_reader(part))
    return _instance_reader(kind)  # str, bool


def _instance_reader(kind: type) -> Read:
    return lambda value: value if isinstance(value, kind) else None


def _list_reader(read: Read) -> Read:
    """Reads a list whole or not at all: places in it have a meaning."""

    def read_list(values: object) -> list[Any] | None:
        items = [read(value) for value in values] if isinstance(values, list) else [None]
        return None if any(item is None for item in items) else items

    return read_list


def _dict_reader(read: Read) -> Read:
    """Reads those entries of a dictionary that have the right type."""

    def read_dict(values: object) -> dict[str, Any] | None:
        if not isinstance(values, dict):
            return None
        items = ((name, read(value)) for name, value in values.items())
        return {name: item for name, item in items if item is not None}

    return read_dict


def number(value: object) -> float | int | None:
    """Returns `value` if it is a finite number of a size that can be computed with, None otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < LARGEST else None


def whole_number(value: object) -> int | None:
    """Returns `value` as an int if it is a number without a fraction and of a size that can be computed with."""
    found = number(value)
    return int(found) if found is not None and found == int(found) else None
