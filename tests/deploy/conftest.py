"""A folder of wheels, as a workstation prepares it for a device without network, and an installed device side."""

import os
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

from edge_s2a.version import __version__
from tests.conftest import PROJECT

INSTALLER = PROJECT / "deploy" / "install.sh"


@pytest.fixture(scope="session")
def wheels(wheel, tmp_path_factory) -> Path:
    """The device's dependencies, by deploy/README.md's command."""
    folder = tmp_path_factory.mktemp("wheels")
    device = [requirement for requirement in requires("edge-s2a") if "extra ==" not in requirement]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--only-binary", ":all:", "--dest", folder, *device], check=True)
    return folder


def device_environment(home: Path) -> dict[str, str]:
    """Environment variables of a user whose home folder is `home`, without this one's virtual environment."""
    python = Path(sys._base_executable).parent
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    # pip need not compile what the tests use once; its variables of this kind say no with a zero.
    path = f"{home}/.local/bin:{python}:/usr/bin:/bin"
    return {**kept, "HOME": str(home), "PATH": path, "PIP_NO_COMPILE": "0"}


def install(home: Path, *arguments, **changes) -> subprocess.CompletedProcess:
    """sh install.sh ARGUMENTS, in the home folder."""
    return subprocess.run(
        ["sh", str(INSTALLER), *map(str, arguments)], capture_output=True, text=True, cwd=home, timeout=300,
        env={**device_environment(home), **changes}, check=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def device_home(wheel, wheels, tmp_path_factory) -> Path:
    """A home folder in which install.sh has run, without network."""
    home = tmp_path_factory.mktemp("home")
    done = install(home, wheel, "--wheels", wheels)
    assert done.returncode == 0, done.stderr
    assert f"edge-s2a {__version__} (" in done.stdout
    return home
