"""Derives the arguments of a command from its class of options (edge_s2a/options.py), and the options from a command
line."""

import argparse
import ast
import math
from collections.abc import Callable, Sequence
from dataclasses import Field
from pathlib import Path
from typing import Any, TypeVar, get_args

from edge_s2a.errors import UserError
from edge_s2a.option import REQUIRED, Bounds, Option, Options, declared_type, described, value_type

O = TypeVar("O", bound=Options)  # noqa: E741


def add_options(parser: argparse.ArgumentParser, cls: type[Options]) -> None:
    """Adds an argument for each option: words without a flag, then what is required, then the others."""
    groups: dict[str, argparse._ActionsContainer] = {}
    for entry, about in by_importance(cls):
        place: argparse._ActionsContainer = parser
        if about.alternatives is not None:
            if about.alternatives not in groups:
                groups[about.alternatives] = parser.add_mutually_exclusive_group()
            place = groups[about.alternatives]
        if about.is_argument:
            place.add_argument(entry.name, **argument(entry, about))
        else:
            flag = "--" + entry.name.replace("_", "-")
            default = None if entry.default in (REQUIRED, math.inf) else entry.default
            required = entry.default is REQUIRED
            place.add_argument(flag, required=required, default=default, **argument(entry, about))


def by_importance(cls: type[Options]) -> list[tuple[Field[Any], Option]]:
    """The options of a command line: arguments first, in the order of the fields; then required ones; then the others,
    those of the class before its bases'."""

    def rank(entry: Field[Any], about: Option) -> tuple[bool, bool, int]:
        bases = [getattr(base, "__dataclass_fields__", {}) for base in cls.__mro__]
        definer = max(index for index, fields in enumerate(bases) if fields.get(entry.name) is entry)
        return not about.is_argument, entry.default is not REQUIRED, 0 if about.is_argument else definer

    shown = [(entry, about) for entry, about in described(cls) if not about.is_library_only]
    return sorted(shown, key=lambda option: rank(*option))


def argument(entry: Field[Any], about: Option) -> dict[str, Any]:
    """The keywords of `add_argument` that say which words an option takes."""
    kind, help_text = value_type(entry), about.help.replace("%", "%%")
    if kind is bool:
        return {"action": "store_true", "help": help_text}
    metavar: str | tuple[str, ...] | None = about.metavar
    if metavar is None and about.is_argument and not about.choices:
        metavar = entry.name.upper()
    words: dict[str, Any] = {"help": help_text, "metavar": metavar}
    if about.is_text_file:
        return {**words, "help": f"text file with {help_text}, one per line", "type": Path}
    if kind is dict:
        return {**words, "nargs": "*"}
    if kind is Sequence:
        places = tuple((about.metavar or "").split())
        several = {"nargs": len(places), "metavar": places} if len(places) > 1 else {"nargs": "+"}
        (item,) = get_args(declared_type(entry))
        return {**words, "type": item if item in (int, float) else str, **several}
    if about.choices:
        return {**words, "choices": about.choices}
    # What has a conversion of its own stays text here: the options convert it.
    if kind in (int, float) and about.convert is None:
        return {**words, "type": number(kind, about.bounds)}
    return words


def number(kind: Callable[[str], float], bounds: Bounds | None) -> Callable[[str], float]:
    """Parses a number within its bounds."""

    def parse(text: str) -> float:
        value = kind(text)
        if bounds is not None and not bounds.admit(value):
            raise argparse.ArgumentTypeError(f"{text} {bounds.violation}")
        return value

    parse.__name__ = kind.__name__  # argparse names it: invalid int value
    return parse


def from_namespace(cls: type[O], namespace: argparse.Namespace, **overrides: Any) -> O:
    """The options that argparse parsed. Raises UserError where a value is not admitted."""
    values = {
        entry.name: from_words(entry, about, words)
        for entry, about in described(cls)
        if (words := getattr(namespace, entry.name, None)) is not None
    }
    return cls(**{**values, **overrides})


def from_words(entry: Field[Any], about: Option, words: Any) -> Any:
    if about.is_text_file:
        return read_lines(entry.name, words)
    if value_type(entry) is dict:
        return parse_pairs(entry.name, words)
    return words


def read_lines(name: str, path: Path) -> list[str]:
    """The lines of a text file that are not empty. Raises UserError where one is there twice, or none."""
    from edge_s2a.artifact.files import read_bytes

    try:
        text = read_bytes(path, name).decode("utf-8-sig")  # Windows' editors begin with a byte order mark
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}; write one name per line") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != len(set(lines)) or not lines:
        raise UserError(f"{path} must name each class once, one per line; it has {len(lines)} lines")
    return lines


def parse_pairs(name: str, words: Sequence[str]) -> dict[str, Any]:
    """["img_size=32", ...] -> {"img_size": 32, ...}; values are Python literals, or else text."""
    parsed: dict[str, Any] = {}
    for word in words:
        key, separator, text = word.partition("=")
        if not separator or not key.isidentifier():
            raise UserError(f"--{name.replace('_', '-')} {word!r} is not KEY=VALUE; write for example img_size=32")
        try:
            parsed[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            parsed[key] = text
    return parsed
