"""Defines what a command is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from edge_s2a.cli.output import Output
from edge_s2a.option import Options

O = TypeVar("O", bound=Options)  # noqa: E741


@dataclass(frozen=True)
class Command(Generic[O]):
    """One command of the program. `run` returns the exit code and raises UserError for everything the user can mend;
    heavy modules are imported there, so that the program starts quickly."""

    name: str
    help: str
    options: type[O]
    run: Callable[[O, Output], int]
