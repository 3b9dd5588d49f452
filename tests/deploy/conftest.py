"""A folder of wheels, as a workstation prepares it for a device without network, and an installed device side."""

import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

from edge_s2a.version import __version__
from tests.helpers.installer import install


@pytest.fixture(scope="session")
def wheels(wheel, tmp_path_factory) -> Path:
    """The device's dependencies, by deploy/README.md's command."""
    folder = tmp_path_factory.mktemp("wheels")
    device = [requirement for requirement in requires("edge-s2a") if "extra ==" not in requirement]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--only-binary", ":all:", "--dest", folder, *device], check=True)
    return folder


@pytest.fixture(scope="session")
def device_home(wheel, wheels, tmp_path_factory) -> Path:
    """A home folder in which install.sh has run, without network."""
    home = tmp_path_factory.mktemp("home")
    done = install(home, wheel, "--wheels", wheels)
    assert done.returncode == 0, done.stderr
    assert f"edge-s2a {__version__} (" in done.stdout
    return home
