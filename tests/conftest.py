"""Shared fixtures: small packed models, image folders, and the command line as a user runs it."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

if "PYTEST_XDIST_WORKER" in os.environ:
    import torch

    torch.set_num_threads(1)  # for another worker has the other core

PROJECT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("EDGE_S2A_SHARED", PROJECT.parent / "shared"))
SMALL_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
ORT_TRAINING = ["onnxruntime-training==1.19.2", "numpy", "pillow", "psutil"]
CLASSES = ["blue", "green", "red"]


@dataclass
class Finished:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict:
        return json.loads(self.stdout)


def run_command(*arguments, python=sys.executable, cwd=PROJECT, timeout=300, **options) -> Finished:
    """`edge-s2a ARGUMENTS` in a process of its own."""
    done = subprocess.run(
        [str(python), "-m", "edge_s2a", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        check=False,
        **options,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def run_measured(*arguments, python=sys.executable, cwd=PROJECT, timeout=300) -> tuple[Finished, int]:
    """The same, and its peak resident memory in bytes, read from outside: the kernel's account of the
    process (`ru_maxrss`, the VmHWM of its whole life) as its parent, a small launcher, gets it."""
    return measure(python, "-m", "edge_s2a", *arguments, cwd=cwd, timeout=timeout)


def measure(*command, cwd=PROJECT, timeout=300) -> tuple[Finished, int]:
    """A command that has ended, and its peak resident memory in bytes."""
    launcher = [sys.executable, "-S", "-E", str(Path(__file__).parent / "launcher.py"), *map(str, command)]
    done = subprocess.run(launcher, capture_output=True, text=True, cwd=cwd, timeout=timeout, check=False)
    *lines, last = done.stderr.splitlines()
    return Finished(done.returncode, done.stdout, "\n".join(lines)), int(last)


def metrics_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def step_losses(run: Path) -> list[float]:
    return [line["loss"] for line in metrics_of(run) if line["kind"] == "step"]


def assert_refused(finished: Finished, exit_code: int, *parts: str) -> None:
    """One message that names `parts`, nothing else: no traceback, nothing on standard output."""
    assert finished.returncode == exit_code, finished.stderr
    assert finished.stdout == ""
    assert "Traceback" not in finished.stderr
    message = finished.stderr.strip().splitlines()[-1]
    assert message.startswith("edge-s2a")
    for part in parts:
        assert str(part) in message


def write_images(folder: Path, per_class: int, seed: int, size: int = 40) -> Path:
    """FOLDER/<colour>/<n>.png: noise tinted in the colour of its class, so that a model can learn it."""
    rng = np.random.default_rng(seed)
    for channel, name in ((2, "blue"), (1, "green"), (0, "red")):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 120, (size, size, 3), np.uint8)
            pixels[:, :, channel] += 100
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")
    return folder


def options_of(**changes):
    """What the tests pack unless told otherwise: a two-block ViT for 32x32 images and three classes."""
    from edge_s2a.options import PackOptions

    small = {
        "model": "vit_tiny_patch16_224",
        "output": "unused.s2a",
        "model_kwargs": SMALL_VIT,
        "labels": CLASSES,
        "num_classes": 3,
    }
    return PackOptions(**{**small, **changes})


def pack(path: Path, **options) -> Path:
    from edge_s2a.host import pack as host

    host.pack(options_of(output=path, **options))
    return path


SOAK_ROWS: list[tuple] = []


@pytest.fixture(scope="session")
def soak_table():
    """Adds a row to the table at the end of a soak run: what was done, how often, and how often it went wrong."""
    return lambda *row: SOAK_ROWS.append(row)


def pytest_terminal_summary(terminalreporter):
    if SOAK_ROWS:
        titles = ("what", "tried", "lost or wrong", "crashes", "hangs", "over budget")
        width = max(len(row[0]) for row in SOAK_ROWS)
        for first, *others in (titles, *SOAK_ROWS):
            terminalreporter.write_line(f"{first:<{width}}" + "".join(f"{cell!s:>15}" for cell in others))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this tree."""
    output = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source") / "edge-s2a"
    # From a copy: building leaves build/ behind, and stale files of it would enter the wheel.
    shutil.copytree(PROJECT / "edge_s2a", source / "edge_s2a", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", output, source], check=True, capture_output=True
    )
    (path,) = output.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def small_artifact(tmp_path_factory) -> Path:
    """A two-block ViT for 32x32 images and three classes, with the default options."""
    return pack(tmp_path_factory.mktemp("small") / "small.s2a")


@pytest.fixture(scope="session")
def deit_artifact(tmp_path_factory) -> Path:
    """DeiT-Tiny at 224 px with random weights, five classes: memory as in real use."""
    path = tmp_path_factory.mktemp("deit") / "deit.s2a"
    return pack(path, model="deit_tiny_patch16_224", model_kwargs={}, labels=None, num_classes=5)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """{train,val}/<class>/*.png with 14 and 4 images a class."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "train", 14, seed=0)
    write_images(folder / "val", 4, seed=1)
    return folder


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory) -> Path:
    """Five classes of eight 300x260 JPEGs, the size of small photos."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for label in range(5):
        (folder / str(label)).mkdir()
        for number in range(8):
            coarse = rng.integers(0, 256, (13, 15, 3), np.uint8)
            Image.fromarray(coarse).resize((300, 260)).save(folder / str(label) / f"{number}.jpg")
    return folder


def make_environment(name, requirements, wheel):
    """A virtual environment of the project's folder, kept between runs; the wheel is installed anew."""
    folder = PROJECT / name
    python = folder / "bin" / "python"
    marker = folder / "requirements"
    wanted = "\n".join(requirements)
    with open(f"{folder}.lock", "w") as lock:  # another test process may want it, too
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not marker.exists() or marker.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            pip_install(python, *requirements)
            marker.write_text(wanted)
        pip_install(python, "--force-reinstall", "--no-deps", wheel)
    return python


def pip_install(python, *arguments):
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


@pytest.fixture(scope="session")
def device_python(wheel):
    from importlib.metadata import requires

    base = [requirement for requirement in requires("edge-s2a") if "extra ==" not in requirement]
    return make_environment(".venv-device", sorted(base), wheel)


@pytest.fixture(scope="session")
def ort_training_python(wheel):
    """The optional engine."""
    if sys.version_info >= (3, 12):
        pytest.skip("onnxruntime-training 1.19.2 has no wheel for Python above 3.11")
    return make_environment(".venv-ort-training", ORT_TRAINING, wheel)
