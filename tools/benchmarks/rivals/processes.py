"""What the benchmarks share: processes that are measured, the rivals' environments, and artifacts, ours and theirs.

Environments and artifacts are made under build/rivals when they are first needed, and kept.
"""

import functools
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
from PIL import Image

from tools.benchmarks.rivals.task import CLASSES, THREADS
from tools.records import PROJECT

RIVALS = PROJECT / "tools" / "benchmarks" / "rivals"
WORK = PROJECT / "build" / "rivals"
# What an environment holds beside what its name says, and whether it sees this one's packages.
ENVIRONMENTS = {
    "peft": (["peft"], True),
    # The newest onnx whose models it reads; numpy 1 is what it was built for.
    "onnxruntime": (["onnxruntime-training==1.19.2", "onnx==1.16.2", "numpy<2", "cerberus", "h5py"], False),
}


class Failure(Exception):
    """What could not be measured: the stage that failed, in a word, and the error."""

    def __init__(self, stage: str, stderr: str):
        super().__init__(stage)
        self.stage, self.error = stage, last_error(stderr)


def last_error(stderr: str) -> str:
    """The last exception of a program's standard error in one line, without this machine's paths."""
    lines = [line for line in stderr.splitlines() if line.strip() and not line.isdigit()]  # the launcher's is a number
    code = [number for number, line in enumerate(lines) if line.startswith("  ")]
    text = " ".join(" ".join(lines[code[-1] + 1 :] if code else lines[-1:]).split())
    return text.replace(f"{PROJECT}/", "")[:400]


# -- processes -----------------------------------------------------------------------------------------


def child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{RIVALS}", "OMP_NUM_THREADS": str(THREADS)}


def call(stage: str, *command) -> subprocess.CompletedProcess:
    """Raises Failure unless the command ends well."""
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, cwd=PROJECT, env=child_environment(), check=False
    )
    if done.returncode:
        raise Failure(stage, done.stderr)
    return done


def peak_of(stage: str, *command) -> tuple[str, int]:
    """(standard output, peak resident bytes) of a command, which runs under a launcher: see there why."""
    done = call(stage, sys.executable, "-S", "-E", PROJECT / "tests" / "helpers" / "launcher.py", *command)
    return done.stdout, int(done.stderr.splitlines()[-1])


@functools.cache
def python_of(program: str) -> Path:
    """The interpreter of the environment that `program` has, which is made if it has none of its own yet."""
    if program not in ENVIRONMENTS:
        return Path(sys.executable)
    requirements, sees_host = ENVIRONMENTS[program]
    folder = WORK / "environments" / program
    python = folder / "bin" / "python"
    stamp = folder / "complete"
    if not stamp.exists():
        call("environment", sys.executable, "-m", "venv", "--clear", folder)
        if sees_host:
            own = call("environment", python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
            Path(own.stdout.strip(), "host.pth").write_text(sysconfig.get_path("purelib") + "\n")
        call("environment", python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
        stamp.touch()
    return python


@functools.cache
def images(count: int) -> Path:
    """<class>/<number>.jpg, of the size of small photos."""
    folder = WORK / f"images{count}"
    rng = np.random.default_rng(0)
    for number in range(count):
        file = folder / f"class{number % CLASSES}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (13, 15, 3), np.uint8)
        Image.fromarray(coarse).resize((300, 260)).save(file)
    return folder


def packed(model: str, bits: str, weights: str, compute: str = "fp32", adapter: str = "bias") -> Path:
    output = WORK / "artifacts" / f"{model}-{adapter}-{bits}-{weights}-{compute}.s2a"
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        options = ["--num-classes", CLASSES, "--saved-bits", bits, "--weight-format", weights]
        options += ["--compute", compute, "--adapter", adapter, "--output", output]
        call("packing", sys.executable, "-m", "edge_s2a", "pack", model, *options)
    return output


def onnxruntime_artifacts(model: str, method: str) -> Path:
    """The folder of onnxruntime-training's artifacts for `method`."""
    python, folder = python_of("onnxruntime"), WORK / "onnxruntime" / model
    if not (folder / "model.onnx").exists():
        call("export", sys.executable, RIVALS / "onnx_export.py", model, folder)
    if not (folder / method / "training_model.onnx").exists():
        call("artifacts", python, RIVALS / "onnx_artifacts.py", folder, method)
    return folder / method
