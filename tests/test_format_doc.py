"""docs/FORMAT.md against the code: its stand-alone reader, its manifest table, its version."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_s2a.artifact.archive import WEIGHTS, Artifact
from edge_s2a.artifact.manifest import FORMAT_VERSION, Manifest, Preprocessing
from edge_s2a.artifact.tensors import decode
from tests.helpers.artifacts import pack

PROJECT = Path(__file__).parent.parent
DOCUMENT = (PROJECT / "docs" / "FORMAT.md").read_text(encoding="utf-8")
DEMO = PROJECT / "demo" / "vit_demo.safetensors"
DEMO_KWARGS = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3}
NAME = "patch_embed.proj.weight"


def found(pattern: str) -> str:
    """The only match of `pattern` in the document."""
    (match,) = re.findall(pattern, DOCUMENT, re.DOTALL | re.MULTILINE)
    return match


def numbers(text: str) -> np.ndarray:
    return np.array([float(word) for word in text.strip().strip("[]").split()])


@pytest.fixture(scope="module")
def reader() -> str:
    return found(r"```python\n(# read_row\.py.*?)```")


@pytest.fixture(scope="module")
def demo_artifact(tmp_path_factory) -> Path:
    """The worked example's model, packed as its command does."""
    path = tmp_path_factory.mktemp("format") / "demo.s2a"
    return pack(path, labels=None, num_classes=10, weights=DEMO, model_kwargs=DEMO_KWARGS)


@pytest.fixture(scope="module")
def printed_row(reader, demo_artifact) -> np.ndarray:
    """What the document's reader prints, run in a process of its own that sees neither this folder nor
    the environment's Python paths."""
    script = demo_artifact.parent / "read_row.py"
    script.write_text(reader, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-I", str(script), str(demo_artifact)],
        capture_output=True,
        text=True,
        cwd=demo_artifact.parent,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return numbers(done.stdout)


def test_reader_imports_only_the_standard_library_and_numpy(reader):
    nodes = list(ast.walk(ast.parse(reader)))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {module.split(".")[0] for module in modules} <= {*sys.stdlib_module_names, "numpy"}
    assert "numpy" in modules


def test_reader_prints_what_the_artifact_holds(printed_row, demo_artifact):
    arrays, _ = decode(Artifact(demo_artifact).map(WEIGHTS), "weights")
    codes, scale = arrays[f"{NAME}.codes"], arrays[f"{NAME}.scale"]
    expected = codes[0].astype(np.float64).ravel() * float(scale[0])
    np.testing.assert_allclose(printed_row, expected, rtol=0, atol=1e-6)
    # Neither reader is to be trusted alone: the original weight lies within half a step.
    original, _ = decode(DEMO.read_bytes(), "demo")
    assert np.abs(printed_row - original[NAME][0].ravel()).max() <= 0.5 * float(scale[0]) + 1e-6


def test_document_shows_what_the_reader_prints(printed_row):
    shown = numbers(found(r"^\$ python read_row\.py demo\.s2a\n(.*?)```"))
    np.testing.assert_allclose(shown, printed_row, rtol=0, atol=1e-6)


def test_worked_example_names_the_command_that_is_tested():
    command = found(r"^\$ edge-s2a pack (.*?demo\.s2a)\n")
    kwargs = " ".join(f"{key}={value}" for key, value in DEMO_KWARGS.items())
    expected = (
        f"vit_tiny_patch16_224 --model-kwargs {kwargs} --weights demo/{DEMO.name} --num-classes 10 --output demo.s2a"
    )
    assert command.replace("\\\n", " ").split() == expected.split()


def test_manifest_table_names_exactly_the_fields():
    table = found(r"^### manifest\.json\n(.*?)^### ")
    documented = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    expected = []
    for field in dataclasses.fields(Manifest):
        expected.append(field.name)
        if field.name == "preprocessing":
            expected += [f"preprocessing.{part.name}" for part in dataclasses.fields(Preprocessing)]
    assert documented == expected


def test_document_describes_the_current_version():
    assert int(found(r"^This page describes Format version (\d+)\.")) == FORMAT_VERSION
    table = found(r"^### manifest\.json\n(.*?)^### ")
    assert f"| `format_version` | integer | {FORMAT_VERSION} |" in table
