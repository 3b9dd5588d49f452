"""Extends argparse: one line per error, suggestions for misspelt words, defaults in the help, versions."""

import argparse
import contextlib
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

ENGINES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-training")  # any of them


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


class ShowVersions(argparse.Action):
    """Prints the versions of this program, of its file format and of the engine, without loading the engine."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib.metadata import PackageNotFoundError, version

        from edge_s2a.artifact.manifest import FORMAT_VERSION
        from edge_s2a.version import __version__

        parts = [f"format version {FORMAT_VERSION}"]
        for engine in ENGINES:
            with contextlib.suppress(PackageNotFoundError):
                parts.append(f"{engine} {version(engine)}")
        python = ".".join(map(str, sys.version_info[:3]))
        print(f"edge-s2a {__version__} ({', '.join(parts)}, Python {python})")
        sys.exit(0)


class HelpWithDefaults(argparse.HelpFormatter):
    """Ends each help text with the default, unless there is none or the text tells it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        has_none = action.required or action.default is None or action.default is False
        is_told = "default" in text or action.default == argparse.SUPPRESS
        return text if has_none or is_told else f"{text} (default: %(default)s)"


def commands_of(parser: argparse.ArgumentParser) -> dict[str, Parser]:
    """The parsers of the commands, by name."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return commands.choices


def refuse_misspelt(parser: Parser, arguments: list[str]) -> None:
    """Ends the program with exit code 2 where a command or an option does not exist, and suggests similar ones.

    It runs before argparse, which would first report what is missing, and that is often what was misspelt.
    """
    commands = commands_of(parser)
    name = next((word for word in arguments if not word.startswith("-")), None)
    if name is None:
        return
    if name not in commands:
        parser.error(f"there is no command {name!r}{did_you_mean(name, commands)}")
    known = [*commands[name]._option_string_actions]
    for word in arguments[arguments.index(name) + 1 :]:
        if word == "--":
            return
        option = word.partition("=")[0]
        if option.startswith("--") and not any(flag.startswith(option) for flag in known):
            commands[name].error(f"there is no option {option}{did_you_mean(option, known)}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    import difflib

    known = sorted(known)
    close = difflib.get_close_matches(word, known, 3, 0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; there are {', '.join(known)}"
