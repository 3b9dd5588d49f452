"""Names of classes and files reach any terminal: escaped where it has no such letters, and never obeyed."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.images import write_images
from tests.helpers.paths import PROJECT

FLOWER, COLOUR = "крас🌹", "a\x1b[31mb"
ASCII = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    data = write_images(tmp_path_factory.mktemp("named") / "data", 4, 0)
    (data / "red").rename(data / FLOWER)
    (data / "blue").rename(data / COLOUR)
    return data


def run_in(environment, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "edge_s2a", *map(str, arguments)],
        capture_output=True, env=environment, cwd=PROJECT, check=True,
    ).stdout.decode()  # fmt: skip


@pytest.mark.parametrize("environment", [ASCII, dict(os.environ)], ids=["ascii", "utf-8"])
def test_every_command_prints_them(small_artifact, named, tmp_path, environment):
    output = tmp_path / "K.safetensors"
    learned = run_in(environment, "learn", small_artifact, "--data", named, "--output", output)
    judged = run_in(environment, "eval", small_artifact, "--adapter", output, "--data", named)
    image = named / FLOWER / "000.png"
    told = run_in(environment, "predict", small_artifact, "--adapter", output, image)
    for text in (learned, judged, told):
        assert "\x1b" not in text
        shown = FLOWER if environment is not ASCII else FLOWER.encode("ascii", "backslashreplace").decode()
        assert shown in text
    found = json.loads(run_in(environment, "predict", small_artifact, "--adapter", output, image, "--json"))
    assert found["results"][0]["predictions"][0]["label"] == FLOWER
    counts = json.loads(run_in(environment, "learn", output, "--data", named, "--json"))["classes"]
    assert counts == {COLOUR: 4, "green": 4, FLOWER: 4}
