"""The command line: as a user runs it, in a process of its own, and in this process."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.paths import PROJECT


@dataclass
class Finished:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict:
        return json.loads(self.stdout)


def run_command(*arguments, python=sys.executable, cwd=PROJECT, timeout=300, **options) -> Finished:
    """Runs `edge-s2a ARGUMENTS`."""
    done = subprocess.run(
        [str(python), "-m", "edge_s2a", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        check=False,
        **options,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def run_here(*arguments) -> Finished:
    """Runs `edge-s2a ARGUMENTS` in this process, for cases in which nothing depends on its being one of its own:
    starting one takes half a second, and three where torch is needed."""
    from edge_s2a.cli.main import main

    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # of argparse
            code = end.code
    return Finished(code, stdout.getvalue(), stderr.getvalue())


def run_host_here(*arguments) -> Finished:
    """`run_here` for commands that need torch, which makes a case slow."""
    pytest.importorskip("torch")
    import edge_s2a.host.pack  # noqa: F401

    return run_here(*arguments)


def run_measured(*arguments, python=sys.executable, cwd=PROJECT, timeout=300) -> tuple[Finished, int]:
    """Runs `edge-s2a ARGUMENTS`; returns its peak resident memory in bytes too.

    The peak is read from outside: the kernel's account of the process (`ru_maxrss`, the VmHWM of its whole life), as
    its parent, a small launcher, gets it.
    """
    return measure(python, "-m", "edge_s2a", *arguments, cwd=cwd, timeout=timeout)


def measure(*command, cwd=PROJECT, timeout=300) -> tuple[Finished, int]:
    """Runs a command; returns it and its peak resident memory in bytes."""
    launcher = [sys.executable, "-S", "-E", str(Path(__file__).with_name("launcher.py")), *map(str, command)]
    done = subprocess.run(launcher, capture_output=True, text=True, cwd=cwd, timeout=timeout, check=False)
    *lines, last = done.stderr.splitlines()
    return Finished(done.returncode, done.stdout, "\n".join(lines)), int(last)


def assert_refused(finished: Finished, exit_code: int, *parts: str) -> None:
    """One message that names `parts`, nothing else: no traceback, nothing on standard output."""
    assert finished.returncode == exit_code, finished.stderr
    assert finished.stdout == ""
    assert "Traceback" not in finished.stderr
    message = finished.stderr.strip().splitlines()[-1]
    assert message.startswith("edge-s2a")
    for part in parts:
        assert str(part) in message
