"""What argparse leaves to wish for: one line an error, with a suggestion, defaults where there are some, and all
versions."""

import argparse
import contextlib
import sys
from typing import NoReturn

ENGINES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-training")  # any of them


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


class ShowVersions(argparse.Action):
    """Prints the versions of this program, of the files that it reads and writes, and of the engine, without loading
    it. What looks them up is not loaded either, unless somebody asks."""

    def __call__(self, parser: argparse.ArgumentParser, *_) -> NoReturn:
        from importlib.metadata import PackageNotFoundError, version

        from edge_s2a.artifact.manifest import FORMAT_VERSION
        from edge_s2a.version import __version__

        parts = [f"format version {FORMAT_VERSION}"]
        for engine in ENGINES:
            with contextlib.suppress(PackageNotFoundError):
                parts.append(f"{engine} {version(engine)}")
        python = ".".join(map(str, sys.version_info[:3]))
        print(f"edge-s2a {__version__} ({', '.join(parts)}, Python {python})")
        parser.exit()


class HelpWithDefaults(argparse.HelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        tells = action.default in (None, False, argparse.SUPPRESS) or "default" in action.help
        return action.help if tells else f"{action.help} (default: %(default)s)"


def verbs_of(parser: Parser) -> dict[str, Parser]:
    """The parsers of its verbs, by name."""
    (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return verbs.choices


def refuse_misspelt(parser: Parser, arguments: list[str]) -> None:
    """Ends the program with exit code 2 for a verb or an option that does not exist, and names those that are like it.
    Before argparse does: it says first what is missing, and that is often what was misspelt."""
    verbs = verbs_of(parser)
    verb = next((word for word in arguments if not word.startswith("-")), None)
    if verb is None:
        return
    if verb not in verbs:
        parser.error(f"there is no verb {verb!r}{did_you_mean(verb, verbs)}")
    known = [*verbs[verb]._option_string_actions]
    for word in arguments[arguments.index(verb) + 1 :]:
        if word == "--":
            return
        option = word.partition("=")[0]
        if option.startswith("--") and not any(name.startswith(option) for name in known):
            verbs[verb].error(f"there is no option {option}{did_you_mean(option, known)}")


def did_you_mean(word: str, known) -> str:
    import difflib

    close = difflib.get_close_matches(word, known, 3, 0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; there are {', '.join(sorted(known))}"
