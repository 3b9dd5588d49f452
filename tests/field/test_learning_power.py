"""Learning is interrupted: what was read is kept, nothing counts twice, and the old knowledge file stays whole."""

import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.knowledge import load_knowledge
from tests.helpers.commands import run_command
from tests.helpers.images import write_images
from tests.helpers.paths import PROJECT

PER_CLASS = 150
OPTIONS = ["--memory-budget", "400MiB", "--threads", "1"]
LONGEST_S = 120


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Large enough that reading them takes a while: some 4 ms each."""
    return write_images(tmp_path_factory.mktemp("learned") / "train", PER_CLASS, seed=0, size=300)


def start(artifact, images, knowledge):
    command = ["learn", artifact, "--data", images, "--output", knowledge, *OPTIONS]
    return subprocess.Popen(
        [sys.executable, "-m", "edge_s2a", *map(str, command)], cwd=PROJECT, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_features(process, partial):
    end_s = time.monotonic() + LONGEST_S
    while process.poll() is None and time.monotonic() < end_s:
        if partial.exists() and partial.stat().st_size > 10_000:
            return
        time.sleep(0.01)
    pytest.fail("no features were kept before the process ended")


def state_of(artifact, knowledge):
    return load_knowledge(knowledge, Artifact(artifact).manifest).state


def assert_learned_once(artifact, images, knowledge):
    state = state_of(artifact, knowledge)
    assert state.classes == ["blue", "green", "red"]
    assert state.counts.tolist() == [PER_CLASS] * 3
    assert len({digest.tobytes() for digest in state.kept.digests}) == 3 * PER_CLASS
    assert [path.name for path in knowledge.parent.iterdir() if path.name.startswith(knowledge.name)] == [
        knowledge.name
    ]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_was_read(small_artifact, images, tmp_path, sent):
    knowledge = tmp_path / "K.safetensors"
    partial = tmp_path / "K.safetensors.partial"
    with start(small_artifact, images, knowledge) as process:
        wait_for_features(process, partial)
        process.send_signal(sent)
        _, stderr = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 130
    assert "the same command goes on from there" in stderr
    assert not knowledge.exists()
    assert partial.stat().st_size > 10_000
    done = run_command("learn", small_artifact, "--data", images, "--output", knowledge, *OPTIONS, "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["new_images"] == 3 * PER_CLASS
    assert_learned_once(small_artifact, images, knowledge)


def test_kills_at_random_moments(small_artifact, images, tmp_path):
    knowledge = tmp_path / "K.safetensors"
    rng = random.Random(0)
    for _ in range(6):
        with start(small_artifact, images, knowledge) as process:
            try:
                process.communicate(timeout=rng.uniform(0.5, 2.5))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
    done = run_command("learn", small_artifact, "--data", images, "--output", knowledge, *OPTIONS, "--json")
    assert done.returncode == 0, done.stderr
    assert_learned_once(small_artifact, images, knowledge)


def test_a_kill_while_more_is_learned_leaves_the_old_knowledge(small_artifact, images, tmp_path):
    knowledge = tmp_path / "K.safetensors"
    first = tmp_path / "first"
    for name in ("blue", "green"):
        (first / name).mkdir(parents=True)
        for image in sorted((images / name).iterdir())[:5]:
            shutil.copy(image, first / name)
    assert run_command("learn", small_artifact, "--data", first, "--output", knowledge, *OPTIONS).returncode == 0
    before = knowledge.read_bytes()
    command = [sys.executable, "-m", "edge_s2a", "learn", str(knowledge), "--data", str(images), *OPTIONS]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for_features(process, tmp_path / "K.safetensors.partial")
        process.kill()
        process.communicate()
    assert knowledge.read_bytes() == before
    done = run_command("learn", knowledge, "--data", images, *OPTIONS, "--json")
    assert done.returncode == 0, done.stderr
    assert (done.json["images"], done.json["new_images"]) == (3 * PER_CLASS, 3 * PER_CLASS - 10)
