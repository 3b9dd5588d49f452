"""What the wheel and the sdist hold."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.helpers.paths import PROJECT

# Everything that MANIFEST.in grafts or includes, and the package.
PARTS = [
    ".github", ".pre-commit-config.yaml", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "LICENSE",
    "MANIFEST.in", "README.md", "SECURITY.md", "demo", "deploy", "docs", "edge_s2a", "examples", "mkdocs.yml",
    "pyproject.toml", "tests", "tools",
]  # fmt: skip
WHEEL_BYTES = 500_000  # without the embedded model, whose weights alone are 2.7 MB


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The sdist of this tree, built from a copy, for building writes into the tree."""
    source, output = tmp_path_factory.mktemp("source") / "edge-s2a", tmp_path_factory.mktemp("sdist")
    source.mkdir()
    for name in PARTS:
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        copy(PROJECT / name, source / name)
    command = [sys.executable, "-m", "build", "--sdist", "--outdir", output, source]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = output.glob("*.tar.gz")
    return path


def test_the_wheel_is_the_package_and_its_licence(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    info = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    assert {name.split("/")[0] for name in names} == {"edge_s2a", info}
    assert f"{info}/licenses/LICENSE" in names
    assert {"edge_s2a/py.typed", "edge_s2a/report/page.css"} <= set(names)
    metadata = zipfile.ZipFile(wheel).read(f"{info}/METADATA").decode()
    assert "\nLicense-Expression: Apache-2.0\n" in metadata


def test_the_wheel_is_small_and_has_no_weights(wheel):
    """A device downloads it, perhaps over a slow line."""
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".safetensors")]
    assert wheel.stat().st_size <= WHEEL_BYTES


def test_the_sdist_is_the_source_tree_with_the_embedded_model(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"demo/vit_demo.safetensors", "demo/vit_demo.json", "tools/quickstart.sh", *PARTS} <= names
    assert not [name for name in names if name.endswith(".pyc") or "__pycache__" in name]


@pytest.mark.slow
def test_the_quick_start_of_a_wheel_says_where_the_model_is(tmp_path, monkeypatch):
    from edge_s2a import quickstart
    from edge_s2a.errors import UserError

    monkeypatch.setattr(quickstart, "WEIGHTS", tmp_path / "vit_demo.safetensors")
    with pytest.raises(UserError, match=r"bash tools/quickstart\.sh in a clone"):
        quickstart.run_quickstart(tmp_path, "128MiB", as_json=False, quiet=True)
