"""`edge-s2a completion`."""

from edge_s2a.cli.command import Command
from edge_s2a.cli.output import Output
from edge_s2a.errors import UserError
from edge_s2a.options import CompletionOptions


def run(options: CompletionOptions, output: Output) -> int:
    try:
        import shtab
    except ImportError as error:
        raise UserError("this needs shtab; install it with: pip install 'edge-s2a[completion]'") from error
    from edge_s2a.cli.main import build_parser

    print(shtab.complete(build_parser(), options.shell))
    return 0


COMMAND = Command("completion", "print a script that completes this program's words in a shell", CompletionOptions, run)
