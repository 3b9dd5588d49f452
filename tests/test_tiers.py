"""What makes the tests quick must not make them wrong: kept artifacts are never stale, and fast cases are fast."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.helpers import artifacts
from tests.helpers.artifacts import digest_of_options, digest_of_sources, kept, options_of
from tests.helpers.paths import PROJECT

LOADED_BY_PACKING = """
import sys
import edge_s2a.host.pack
for module in list(sys.modules.values()):
    if module.__name__.split(".")[0] == "edge_s2a":
        print(module.__file__)
"""


@pytest.fixture
def package(tmp_path):
    """A package of two modules, of which packing runs the first."""
    for name in ("host/pack.py", "device/train.py"):
        path = tmp_path / "package" / name
        path.parent.mkdir(parents=True)
        path.write_text("x = 1\n")
    return tmp_path / "package"


def fresh_digest(package):
    digest_of_sources.cache_clear()
    return digest_of_sources(package)


def test_another_source_has_another_key(package):
    before = fresh_digest(package)
    (package / "host" / "pack.py").write_text("x = 2\n")
    changed = fresh_digest(package)
    (package / "host" / "new.py").write_text("x = 1\n")
    added = fresh_digest(package)
    assert len({before, changed, added}) == 3
    (package / "host" / "new.py").unlink()
    (package / "host" / "pack.py").write_text("x = 1\n")
    assert fresh_digest(package) == before


def test_what_packing_does_not_run_leaves_the_key(package):
    before = fresh_digest(package)
    (package / "device" / "train.py").write_text("x = 2\n")
    assert fresh_digest(package) == before


def test_another_version_of_a_package_has_another_key(package, monkeypatch):
    keys = {fresh_digest(package)}
    for name in artifacts.PACKAGES:
        monkeypatch.setattr(artifacts, "version", lambda asked, other=name: "0" if asked == other else version(asked))
        keys.add(fresh_digest(package))
    assert len(keys) == 1 + len(artifacts.PACKAGES)


def test_every_module_that_packing_loads_counts():
    done = subprocess.run(
        [sys.executable, "-c", LOADED_BY_PACKING], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    loaded = {path for path in done.stdout.splitlines() if path != "None"}
    assert f"{PROJECT}/edge_s2a/host/pack.py" in loaded
    assert loaded <= {str(path) for path in artifacts.sources()}


def test_other_options_have_another_key(tmp_path):
    changes = [
        {}, {"saved_bits": "8"}, {"adapter": "side"}, {"model_kwargs": {"depth": 1}}, {"seed": 1},
        {"labels": None}, {"weight_format": "int4"}, {"compute": "int8"}, {"image_size": 64}, {"levels": "fitted"},
    ]  # fmt: skip
    assert len({digest_of_options(options_of(**change)) for change in changes}) == len(changes)


def test_files_count_by_what_they_hold(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"1")
    key = digest_of_options(options_of(weights=tmp_path / "a"))
    assert digest_of_options(options_of(weights=tmp_path / "b")) == key
    (tmp_path / "b").write_bytes(b"2")
    assert digest_of_options(options_of(weights=tmp_path / "b")) != key
    before = digest_of_options(options_of(calibration=tmp_path))
    (tmp_path / "a").rename(tmp_path / "c")
    assert digest_of_options(options_of(calibration=tmp_path)) != before


def test_a_kept_artifact_is_packed_once_and_copied(tmp_path, monkeypatch):
    packed = []

    def pack_at_once(options, path, adapted):
        packed.append(options)
        path.write_bytes(b"artifact")

    monkeypatch.setattr(artifacts, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(artifacts, "pack_at_once", pack_at_once)
    path = artifacts.pack(tmp_path / "a.s2a", seed=1)
    path.write_bytes(b"changed by a test")
    assert artifacts.pack(tmp_path / "b.s2a", seed=1).read_bytes() == b"artifact"
    assert len(packed) == 1
    assert kept(options_of(seed=2)) != kept(options_of(seed=1))
    assert len(packed) == 2


@pytest.mark.slow
def test_a_pack_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(options):
        Path(options.output).write_bytes(b"half")
        raise RuntimeError("power failed")

    monkeypatch.setattr("edge_s2a.host.pack.pack", fail)
    with pytest.raises(RuntimeError):
        artifacts.pack_at_once(options_of(), tmp_path / "a.s2a")
    assert list(tmp_path.iterdir()) == []


def test_only_the_latest_versions_stay(tmp_path):
    for age in range(5):
        folder = tmp_path / f"{age}"
        folder.mkdir()
        (folder / "x.s2a").write_bytes(b"")
        os.utime(folder, (1000 - age, 1000 - age))
    artifacts.delete_old_artifacts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


# -- the fast tier -------------------------------------------------------------------------------------

CASES = '''
"""Cases for the fast tier."""

import os

import pytest

from tests.helpers.artifacts import pack
from tests.helpers.commands import run_command


class Helper:
    def start(self):
        return run_command("--version")


@pytest.fixture
def version():
    return run_command("--version")


def test_computes():
    assert 1 + 1 == 2


def test_starts_a_command():
    run_command("--version")


def test_starts_it_in_a_fixture(version):
    pass


def test_starts_it_in_a_method():
    Helper().start()


def test_packs(tmp_path):
    pack(tmp_path / "a.s2a")


def test_uses_an_artifact(small_artifact):
    pass


def test_hides_a_process():
    os.system("true")


def test_hides_torch():
    try:
        __import__("tor" + "ch")
    except Exception:
        pass
'''


@pytest.fixture(scope="module")
def fast_run(tmp_path_factory):
    """The output of the fast tier over two modules, in a folder with our conftest.py and helpers."""
    folder = tmp_path_factory.mktemp("tier") / "tests"
    shutil.copytree(PROJECT / "tests" / "helpers", folder / "helpers")
    for name in ("__init__.py", "conftest.py"):
        shutil.copy(PROJECT / "tests" / name, folder / name)
    (folder / "test_planted.py").write_text(CASES)
    (folder / "test_heavy.py").write_text("import torch\n\n\ndef test_of_torch():\n    pass\n")
    kept_variables = {key: text for key, text in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--fast", "-v", "-rA", "."],
        capture_output=True, text=True, cwd=folder, env={**kept_variables, "PYTHONPATH": str(PROJECT)}, check=False,
    ).stdout  # fmt: skip


def test_only_cases_that_neither_start_a_process_nor_pack_are_fast(fast_run):
    assert "5 deselected" in fast_run
    assert "::test_computes PASSED" in fast_run
    assert "imports torch" in fast_run
    assert "test_of_torch" not in fast_run


@pytest.mark.parametrize(("case", "reason"), [("hides_a_process", "os.system"), ("hides_torch", "imports torch")])
def test_a_fast_case_that_does_fails(fast_run, case, reason):
    assert f"::test_{case} FAILED" in fast_run
    assert f"not in the fast tier: {'starts a process: ' if reason == 'os.system' else ''}{reason}" in fast_run
