"""`edge-s2a completion`."""

from collections.abc import Callable

from edge_s2a.cli.command import Command
from edge_s2a.cli.output import Output
from edge_s2a.cli.parser import Parser
from edge_s2a.errors import UserError
from edge_s2a.options import CompletionOptions


def command(build_parser: Callable[[], Parser]) -> Command[CompletionOptions]:
    """The command that completes the words of the program whose parser `build_parser` makes."""

    def run(options: CompletionOptions, output: Output) -> int:
        try:
            import shtab
        except ImportError as error:
            raise UserError("this needs shtab; install it with: pip install 'edge-s2a[completion]'") from error
        print(shtab.complete(build_parser(), options.shell))
        return 0

    help_text = "print a script that completes this program's words in a shell"
    return Command("completion", help_text, CompletionOptions, run)
