"""Every shell and Python block in the site's pages runs, page by page, in a folder of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import EXECUTED, MARKS, SHOWN, Block, blocks_of, pages, setup_of
from tests.docs.interpreter import DONE
from tests.helpers.pages import NAMES

BLOCKS = [block for page in pages() for block in blocks_of(page)]
RUNNABLE = [block for block in BLOCKS if block.language in EXECUTED and "not run" not in block.marks]
NOT_RUN = [block for block in BLOCKS if "not run" in block.marks]
SHELL_TIMEOUT_S = 300  # a busy machine takes ten times as long as an idle one


class Interpreter:
    """A Python process that the Python blocks of one page share; started at the first."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self._folder, self._environment = folder, environment
        self._process: subprocess.Popen | None = None

    def run(self, block: Block) -> None:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("interpreter.py")], cwd=self._folder, env=self._environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        self._process.stdin.write(json.dumps({"where": block.where, "source": block.source}) + "\n")
        self._process.stdin.flush()
        printed = []
        for line in self._process.stdout:
            if line.rstrip() == DONE:
                print("".join(printed), end="")
                return
            printed.append(line)
        pytest.fail(f"{block.where} failed:\n{block.source}\n\n{''.join(printed)}", pytrace=False)

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()


def run_shell(block: Block, folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.source],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=SHELL_TIMEOUT_S, check=False,
    )  # fmt: skip
    print(done.stdout + done.stderr)
    expected = int(block.marks.get("exit code", 0))
    if done.returncode != expected:
        pytest.fail(
            f"{block.where} ended with exit code {done.returncode}, not {expected}:\n{block.source}\n\n"
            f"{done.stdout}{done.stderr}",
            pytrace=False,
        )


@pytest.mark.parametrize("page", sorted({block.page for block in RUNNABLE}))
def test_blocks_run(page, kitchen, environment):
    folder = kitchen(setup_of(page))
    interpreter = Interpreter(folder, environment)
    try:
        for block in (block for block in RUNNABLE if block.page == page):
            print(f"--- {block.where}\n{block.source}\n---")
            if block.language == "python":
                interpreter.run(block)
            else:
                run_shell(block, folder, environment)
    finally:
        interpreter.close()


@pytest.mark.parametrize("block", NOT_RUN, ids=lambda block: block.where)
def test_block_cannot_run_here(block):
    pytest.skip(f"{block.where}: {block.marks['not run']}")


def test_every_block_is_of_a_known_kind():
    unknown = {block.where: block.language for block in BLOCKS if block.language not in (*EXECUTED, *SHOWN)}
    assert not unknown
    assert not {block.where: block.marks for block in BLOCKS if set(block.marks) - set(MARKS)}
    assert not [block.where for block in BLOCKS if block.marks and block.language not in EXECUTED]
    assert not {page: setup_of(page) for page in pages() if set(setup_of(page)) - set(NAMES)}
