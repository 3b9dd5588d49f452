"""The programs of tools/: they start, and what they import exists, also inside functions."""

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import PROJECT

TOOLS = sorted((PROJECT / "tools").rglob("*.py"))
# Run by path, by interpreters of other environments, so that their siblings are top-level modules to them.
BY_PATH = PROJECT / "tools" / "benchmarks" / "rivals"


def imports_of(path: Path) -> Iterator[tuple[str, str | None]]:
    """(module, name taken from it or None) of each import statement."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.slow  # some import torch
@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.relative_to(PROJECT / "tools").as_posix())
def test_what_a_tool_imports_of_the_project_exists(path):
    for module, name in imports_of(path):
        if module.split(".")[0] in ("edge_s2a", "tools"):
            found = importlib.import_module(module)
            assert name is None or hasattr(found, name) or importlib.import_module(f"{module}.{name}")
        elif path.parent == BY_PATH and (BY_PATH / f"{module}.py").exists():
            assert name is None or name in (BY_PATH / f"{module}.py").read_text(encoding="utf-8")


def test_tools_start_from_the_root_of_the_project():
    """In one process, as `python -m tools.benchmarks.bench_step` and so on find them."""
    modules = [
        ".".join(path.relative_to(PROJECT).with_suffix("").parts) for path in TOOLS if path.parent != BY_PATH
    ]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    code = f"import importlib\nfor module in {modules!r}: importlib.import_module(module)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_usage_lines_name_the_module():
    """`python -m tools.x.y` in a docstring is the file that it stands in."""
    for path in TOOLS:
        module = ".".join(path.relative_to(PROJECT).with_suffix("").parts)
        usages = [
            line.split()[2] for line in path.read_text(encoding="utf-8").splitlines() if "  python -m tools" in line
        ]
        assert set(usages) <= {module}, path


def test_the_rivals_are_where_the_benchmarks_look_for_them():
    from tools.benchmarks.rivals.processes import RIVALS

    assert (RIVALS / "torch_train.py").exists()
