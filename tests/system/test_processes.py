"""A process goes on as another one: replaced, or, where that cannot be, waiting for it."""

import os
import signal
import subprocess
import sys

import pytest

from tests.helpers.paths import PROJECT
from tests.helpers.systems import not_on_windows

GO_ON = """
import os, sys
from edge_s2a.system.processes import continue_as
print(os.getpid(), flush=True)
continue_as([sys.executable, "-c", sys.argv[1]])
"""


def start(system: str, then: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", GO_ON, then], stdout=subprocess.PIPE, text=True, cwd=PROJECT,
        env={**os.environ, "EDGE_S2A_SYSTEM": system},
    )  # fmt: skip


@pytest.mark.parametrize("system", ["", "portable"])
def test_the_exit_code_is_that_of_the_other(system):
    process = start(system, "import sys; print('there'); sys.exit(3)")
    stdout, _ = process.communicate(timeout=60)
    assert stdout.splitlines() == [str(process.pid), "there"]
    assert process.returncode == 3


@not_on_windows
@pytest.mark.parametrize("system", ["", "portable"])
def test_a_request_to_end_reaches_the_other(system):
    """Which decides what becomes of it: a training ends with a checkpoint, and with exit code 130."""
    process = start(
        system,
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)",
    )
    assert process.stdout.readline() == f"{process.pid}\n"
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
