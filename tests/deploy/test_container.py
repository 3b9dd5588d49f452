"""deploy/Containerfile, run without a container engine: its steps, by a shell in a Debian of its own.

What an engine adds is not tested: layers, the network of a container, its memory limit (tests/budget has that).
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.images import write_images
from tests.helpers.paths import PROJECT

CONTAINERFILE = PROJECT / "deploy" / "Containerfile"


def instructions() -> list[tuple[str, str]]:
    """(instruction, its text) in order, comments left out and continued lines joined."""
    lines = [line for line in CONTAINERFILE.read_text().splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(name, text) for name, text in (line.split(" ", 1) for line in joined)]


def value(instruction: str) -> str:
    (text,) = (text for name, text in instructions() if name == instruction)
    return text


def execute(root: Path, *command, **options) -> subprocess.CompletedProcess:
    """The command in the file system `root`."""
    clean = {key: text for key, text in os.environ.items() if key.startswith("PIP_") or key.endswith("_proxy")}
    clean.pop("PIP_FIND_LINKS", None)
    return subprocess.run(
        ["chroot", *options.pop("user", []), str(root), *map(str, command)], capture_output=True, text=True,
        env={**clean, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def image(wheel, tmp_path_factory) -> Path:
    """The file system after all steps. FROM debian:bookworm-slim is played by debootstrap's smallest bookworm."""
    if os.getuid():
        pytest.skip("a file system of its own needs root")
    assert value("FROM") == "debian:bookworm-slim"
    folder = tmp_path_factory.mktemp("container")
    unpack = 'set -euo pipefail; source tools/unpack.sh; unpack "$(dpkg --print-architecture)" "$0" debootstrap'
    subprocess.run(["bash", "-c", unpack, folder / "tool"], check=True, cwd=PROJECT)
    root = folder / "root"
    subprocess.run(
        [folder / "tool/usr/sbin/debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", root],
        env={**os.environ, "DEBOOTSTRAP_DIR": str(folder / "tool/usr/share/debootstrap")}, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    # The network of this machine: its name server, and the certificates that it trusts.
    for path in ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"):
        if Path(path).exists():
            shutil.copy(path, root / path[1:])
    for instruction, text in instructions():
        if instruction == "COPY":
            *patterns, target = text.split()
            (root / target[1:]).mkdir(parents=True)
            for pattern in patterns:
                (source,) = wheel.parent.glob(pattern)  # the folder that the image is built from
                shutil.copy(source, root / target[1:])
        elif instruction == "RUN":
            done = execute(root, "sh", "-ec", text)
            assert done.returncode == 0, done.stdout + done.stderr
        elif instruction == "WORKDIR":
            (root / text[1:]).mkdir()
    yield root
    shutil.rmtree(root)  # half a gigabyte


def test_the_image_trains_as_an_ordinary_user(image, small_artifact):
    data = image / value("WORKDIR")[1:]
    shutil.copy(small_artifact, data / "model.s2a")
    write_images(data / "photos", 4, seed=0)
    user = value("USER")
    os.chown(data, int(user), int(user))
    entry = json.loads(value("ENTRYPOINT"))
    inside = ["sh", "-c", f'cd {value("WORKDIR")} && exec "$@"', "sh", *entry]
    as_user = [f"--userspec={user}:{user}"]
    help_text = execute(image, *inside, *json.loads(value("CMD")), user=as_user)
    assert help_text.stdout.startswith("usage: edge-s2a"), help_text.stderr
    # /proc, which a container has, is not in a bare folder.
    subprocess.run(["mount", "--bind", "/proc", image / "proc"], check=True)
    try:
        done = execute(
            image, *inside, "train", "model.s2a", "--data", "photos", "--output", "run", "--memory-budget", "200MiB",
            "--epochs", 1, "--threads", 1, "--resume-or-start", "--json", user=as_user,
        )  # fmt: skip
    finally:
        subprocess.run(["umount", image / "proc"], check=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["peak_rss_bytes"] <= 200 << 20
    assert (data / "run" / "adapter.safetensors").stat().st_uid == int(user)


def test_the_image_holds_no_compiler_and_no_torch(image):
    for program in ("gcc", "cc", "g++"):
        assert execute(image, "sh", "-c", f"command -v {program}").returncode != 0
    listed = execute(image, "/opt/edge-s2a/bin/pip", "list", "--format", "freeze").stdout
    assert "edge-s2a==" in listed
    assert "torch" not in listed
    assert not (image / "tmp" / "wheels").exists()
