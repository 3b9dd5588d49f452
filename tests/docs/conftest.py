"""What the pages of docs/ may ask for in their set-up, and where their blocks run."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.helpers.artifacts import pack
from tests.helpers.commands import run_command
from tests.helpers.pages import ENVIRONMENT, NAMES

VALIDATION_PER_CLASS = 20  # of the digits, so that validation takes no time


@pytest.fixture(scope="session")
def commands(tmp_path_factory) -> Path:
    """A folder with `edge-s2a` and `python`, as an installation puts them on the path."""
    folder = tmp_path_factory.mktemp("bin")
    for name, words in (("edge-s2a", "-m edge_s2a "), ("python", "")):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def environment(commands) -> dict[str, str]:
    return {**os.environ, **ENVIRONMENT, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="session")
def pantry(tmp_path_factory, environment) -> Path:
    """What a page's set-up may name:

    photos    photos/{train,val}/<digit>/*.png, scikit-learn's handwritten digits, 30 and 20 per class
    weights   vit_demo.safetensors, the weights of the embedded ViT
    artifact  demo.s2a, packed from it for ten classes with the default options
    run       run/, two epochs of training demo.s2a on photos
    """
    from edge_s2a.quickstart import WEIGHTS, write_digits

    folder = tmp_path_factory.mktemp("pantry")
    write_digits(folder / "photos")
    for digit in (folder / "photos" / "val").iterdir():
        for path in sorted(digit.iterdir())[VALIDATION_PER_CLASS:]:
            path.unlink()
    shutil.copy(WEIGHTS, folder / "vit_demo.safetensors")
    model_kwargs = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3}
    pack(folder / "demo.s2a", labels=None, num_classes=10, weights=WEIGHTS, model_kwargs=model_kwargs)
    done = run_command(
        "train", "demo.s2a", "--data", "photos", "--output", "run", "--epochs", 2, "--memory-budget", "160MiB",
        cwd=folder, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def kitchen(pantry, tmp_path):
    """Copies what a set-up names into a folder of the page's own, and returns that folder."""

    def prepare(names: list[str]) -> Path:
        for name in names:
            source = pantry / NAMES[name]
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, tmp_path / NAMES[name])
        return tmp_path

    return prepare
