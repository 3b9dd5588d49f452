"""deploy/install.sh, run in a home folder."""

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.paths import PROJECT

INSTALLER = PROJECT / "deploy" / "install.sh"


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
