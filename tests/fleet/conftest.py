"""An environment as a fleet's machines have it: the device side and Flower, no torch. Flower's requirements exclude
some of the workstation's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.environments import make_environment
from tests.helpers.flower import FLOWER_APP, without_python
from tests.helpers.paths import PROJECT


@pytest.fixture(scope="session")
def fleet_python(wheel) -> Path:
    if sys.version_info < (3, 11):
        pytest.skip("Flower needs Python 3.11")
    import tomllib

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return make_environment(
        ".venv-fleet", [*project["dependencies"], *project["optional-dependencies"]["fleet"]], wheel
    )


@pytest.fixture(scope="session")
def run_script(fleet_python):
    """Runs Python text in that environment, beside the Flower app, with arguments; returns the JSON that it prints."""

    def run(text: str, *arguments):
        command = [str(fleet_python), "-c", text, *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=FLOWER_APP, env=without_python(os.environ), timeout=300,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
