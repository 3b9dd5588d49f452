"""The wheel of this tree, and virtual environments that hold it."""

import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

from tests.helpers.locks import wait_for
from tests.helpers.paths import PROJECT

ORT_TRAINING = ["onnxruntime-training==1.19.2", "numpy", "pillow", "psutil"]


def device_requirements() -> list[str]:
    """What the device side requires: the base dependencies, without extras."""
    return sorted(requirement for requirement in requires("edge-s2a") if "extra ==" not in requirement)


def build_wheel(source: Path, output: Path) -> Path:
    """Builds the wheel of this tree from a copy in `source`: building leaves build/ behind, whose stale files would
    enter the next wheel."""
    shutil.copytree(PROJECT / "edge_s2a", source / "edge_s2a", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", output, source], check=True, capture_output=True
    )
    (path,) = output.glob("*.whl")
    return path


def make_environment(name: str, requirements: list[str], wheel: Path) -> Path:
    """Makes a virtual environment in the project's folder, kept between runs; the wheel is installed every time.
    Returns its interpreter."""
    folder = PROJECT / name
    python = folder / "bin" / "python"
    marker = folder / "requirements"
    wanted = "\n".join(requirements)
    with open(f"{folder}.lock", "w") as lock:  # another test process may want it, too
        wait_for(lock)
        if not marker.exists() or marker.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            pip_install(python, *requirements)
            marker.write_text(wanted)
        pip_install(python, "--force-reinstall", "--no-deps", wheel)
    return python


def pip_install(python: Path, *arguments) -> None:
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)
