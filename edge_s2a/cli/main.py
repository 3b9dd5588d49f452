"""The command line, `edge-s2a`: finds the command, runs it, and turns errors into exit codes.

Exit codes: 0 done, 2 bad input, 3 budget too small or exceeded, 4 self-check failed, 130 interrupted.
"""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from edge_s2a.cli import (
    check,
    completion,
    eval,
    export,
    import_adapter,
    inspect,
    learn,
    pack,
    plan,
    predict,
    quickstart,
    report,
    train,
    watch,
)
from edge_s2a.cli.command import Command
from edge_s2a.cli.options import add_options, from_namespace
from edge_s2a.cli.output import Output, escape_what_cannot_be_printed, say
from edge_s2a.cli.parser import HelpWithDefaults, Parser, ShowVersions, refuse_misspelt
from edge_s2a.errors import UserError
from edge_s2a.options import ArtifactOptions, LearnOptions
from edge_s2a.system.terminal import prepare_output

if TYPE_CHECKING:
    from pathlib import Path

INTERRUPTED = 130
COMMANDS: tuple[Command[Any], ...] = (
    pack.COMMAND, inspect.COMMAND, plan.COMMAND, check.COMMAND, learn.COMMAND, train.COMMAND, eval.COMMAND,
    predict.COMMAND, watch.COMMAND, report.COMMAND, export.COMMAND, import_adapter.COMMAND, quickstart.COMMAND,
    completion.command(lambda: build_parser()),
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    prepare_output()
    arguments = sys.argv[1:] if arguments is None else arguments
    escape_what_cannot_be_printed()
    parser = build_parser()
    refuse_misspelt(parser, arguments)
    parsed = parser.parse_args(arguments)
    (command,) = (command for command in COMMANDS if command.name == parsed.command)
    try:
        options = from_namespace(command.options, parsed)
        require_signature(parsed)
        return command.run(options, Output(parsed.json, parsed.quiet))
    except UserError as error:
        # One line, even where it quotes a library's message of many.
        say(f"edge-s2a {command.name}: {' '.join(str(error).split())}", sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interruption:
        print(f"edge-s2a {command.name}: {str(interruption) or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return 0


def build_parser() -> Parser:
    """The parser of all commands; `command` of what it parses is the name of the one that was given."""
    parser = Parser(
        prog="edge-s2a", description="Fine-tune pretrained vision models on edge devices inside a fixed memory budget."
    )
    parser.add_argument(
        "--version", action=ShowVersions, nargs=0, help="show the versions of program, file format and engine"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        add_command(commands, command)
    return parser


def add_command(commands: "argparse._SubParsersAction[Parser]", command: Command[Any]) -> None:
    parser = commands.add_parser(
        command.name, help=command.help, description=command.help, formatter_class=HelpWithDefaults
    )
    add_options(parser, command.options)
    if issubclass(command.options, (ArtifactOptions, LearnOptions)):
        parser.add_argument(
            "--require-signature", metavar="PUBKEY",
            help="refuse an artifact that the owner of this key has not signed; PEM file of an Ed25519 public key",
        )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object to standard output")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors and what --json prints")


def require_signature(parsed: argparse.Namespace) -> None:
    """Verifies the signature before anything in the artifact is used. The digests of its members are verified when
    these are read."""
    if getattr(parsed, "require_signature", None):
        from pathlib import Path

        from edge_s2a.artifact.archive import Artifact

        Artifact(artifact_of(parsed)).require_signature(Path(parsed.require_signature))


def artifact_of(parsed: argparse.Namespace) -> "Path":
    """The artifact that a command opens; `learn` may find it through a knowledge file."""
    from pathlib import Path

    from edge_s2a.artifact import knowledge

    if parsed.artifact is not None:
        return Path(parsed.artifact)
    source = Path(parsed.source)
    return knowledge.artifact_of(source) if knowledge.is_knowledge(source) else source
