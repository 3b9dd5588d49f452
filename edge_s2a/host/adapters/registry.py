"""The kinds of adapters, and their text form: `bias+lowrank:rank=4`."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from edge_s2a.errors import UserError
from edge_s2a.host.adapters import bias, head, lowrank, prompt, side
from edge_s2a.host.adapters.kind import Kind

# In the order of injection. Prompts come before the side branch, which then reads what the block reads.
KINDS: tuple[Kind[Any], ...] = (bias.KIND, prompt.KIND, side.KIND, lowrank.KIND, head.KIND)
IMPLIED = head.KIND  # trained with every adapter, and named only where it is all of it
ALIASES = {"s2a": (bias.KIND, prompt.KIND, side.KIND)}  # the paper's three


class Choice(NamedTuple):
    """A kind with its options."""

    kind: Kind[Any]
    options: Any  # an instance of kind.options

    def text(self) -> str:
        """`name`, or `name:option=value,...` with the options that differ from their defaults."""
        defaults = self.kind.options()
        values = {field.name: getattr(self.options, field.name) for field in dataclasses.fields(self.options)}
        changed = [f"{name}={value}" for name, value in values.items() if value != getattr(defaults, name)]
        return self.kind.name + (f":{','.join(changed)}" if changed else "")


def parse_adapter(text: str) -> list[str]:
    """The canonical text form of each kind in `text`: "s2a+lowrank:rank=4" gives ["bias", "prompt", "side",
    "lowrank:rank=4"].

    Raises UserError for kinds or options that do not exist, and for values that an option cannot have.
    """
    chosen = choices(text.split("+"), f"--adapter {text}")
    return [choice.text() for choice in chosen if choice.kind is not IMPLIED or len(chosen) == 1]


def choices(parts: Sequence[str], where: str) -> list[Choice]:
    """The kinds to inject, in the order of injection: those of `parts` and the implied one.

    parts: text forms of kinds, or aliases. where: what holds them, for error messages. Raises UserError.
    """
    found: dict[str, Choice] = {}
    for choice in (choice for part in parts for choice in parse_part(part, where)):
        if found.setdefault(choice.kind.name, choice) != choice:
            raise UserError(f"{where}: {choice.kind.name} is given twice with different options; give it once")
    found.setdefault(IMPLIED.name, Choice(IMPLIED, IMPLIED.options()))
    return [found[kind.name] for kind in KINDS if kind.name in found]


def parse_part(part: str, where: str) -> list[Choice]:
    """The kind `name` or `name:option=value,...`, or the kinds of an alias."""
    name, colon, rest = part.partition(":")
    if name in ALIASES:
        if colon:
            kinds = "+".join(kind.name for kind in ALIASES[name])
            raise UserError(f"{where}: {name} has no options; write {kinds} with the options of each")
        return [Choice(kind, kind.options()) for kind in ALIASES[name]]
    kind = next((kind for kind in KINDS if kind.name == name), None)
    if kind is None:
        known = ", ".join([*(kind.name for kind in KINDS), *ALIASES])
        raise UserError(f"{where}: there is no adapter {name!r}; use one or more of {known}, joined by +")
    return [Choice(kind, parse_options(kind, rest, where) if colon else kind.options())]


def parse_options(kind: Kind[Any], text: str, where: str) -> Any:
    """An instance of the kind's options from `option=value,...`."""
    fields = {field.name: field for field in dataclasses.fields(kind.options)}
    if not fields:
        raise UserError(f"{where}: {kind.name} has no options; write {kind.name} alone")
    known = ", ".join(f"{name} ({field.metadata['help']})" for name, field in fields.items())
    values: dict[str, Any] = {}
    for item in text.split(","):
        name, equals, value = item.partition("=")
        if name not in fields or not equals:
            raise UserError(f"{where}: {kind.name} has no option {item!r}; write option=value with one of {known}")
        if name in values:
            raise UserError(f"{where}: {name} is given twice for {kind.name}; give it once")
        try:
            values[name] = fields[name].metadata["parse"](value)
        except ValueError as error:
            raise UserError(f"{where}: {name} must be {error}, not {value!r}") from error
    return kind.options(**values)
