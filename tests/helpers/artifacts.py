"""Small packed models. Each is packed once and kept, in build/test-artifacts/SOURCES/OPTIONS.s2a: both names are
digests, of everything that decides what packing writes and of the options, so that a kept file is never stale."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

from tests.helpers.locks import wait_for
from tests.helpers.paths import PROJECT

SMALL_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
CLASSES = ["blue", "green", "red"]
NO_ADAPTER = {"adapter": "none", "labels": None, "num_classes": None}

# Where this environment is a device's, without torch: the interpreter of one that can pack (tools/test_matrix.sh).
HOST = os.environ.get("EDGE_S2A_HOST_PYTHON")
PACK = (
    "import json, pathlib, sys; from tests.helpers.artifacts import pack; "
    "pack(pathlib.Path(sys.argv[1]), **json.loads(sys.argv[2]))"
)

NOWHERE = "nowhere.s2a"  # the output of options whose artifact is kept
KEPT = PROJECT / "build" / "test-artifacts"
KEPT_VERSIONS = 3  # of the sources beside the present one; older ones are deleted
# Nothing of these decides what packing writes; tests/test_tiers.py holds that packing imports none of them.
APART = {"device", "run", "report", "cli"}
PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "numpy", "pillow", "ml_dtypes", "safetensors")


def options_of(**changes):
    """What the tests pack unless told otherwise: a two-block ViT for 32x32 images and three classes."""
    from edge_s2a.options import PackOptions

    small = {"model": "vit_tiny_patch16_224", "model_kwargs": SMALL_VIT, "labels": CLASSES, "num_classes": 3}
    return PackOptions(**{"output": NOWHERE, **small, **changes})


def pack(path: Path, **options) -> Path:
    """Writes the artifact of these options to `path`, a copy of the one that is kept."""
    if HOST:
        environment = {name: value for name, value in os.environ.items() if name != "EDGE_S2A_HOST_PYTHON"}
        subprocess.run(
            [HOST, "-c", PACK, path, json.dumps(options, default=str)], cwd=PROJECT, check=True, env=environment
        )
        return path
    shutil.copy(kept(options_of(**options)), path)
    return path


def adapt_and_pack(path: Path, options):
    """Packs as `pack` does; returns the adapted model in torch, which is made every time."""
    from edge_s2a.host.pack import adapt

    adapted = adapt(options)
    shutil.copy(kept(options, adapted), path)
    return adapted


def kept(options, adapted=None) -> Path:
    """The artifact of `options`, packed now if there is none. It belongs to all tests: copy it before changing it."""
    folder = KEPT / digest_of_sources()
    path = folder / f"{digest_of_options(options)}.s2a"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w") as lock:  # another test process may want it, too
            wait_for(lock)
            if not path.exists():
                pack_at_once(options, path, adapted)
    return path


def pack_at_once(options, path: Path, adapted=None) -> None:
    """Packs beside `path` and moves the result there whole; `adapted` is the model, if it is made already."""
    import edge_s2a.host.pack as host

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        beside = Path(folder) / path.name
        if adapted is None:
            host.pack(replace(options, output=beside))
        else:
            host.write_artifact(options, adapted, host.build_graphs(options, adapted), beside)
        os.replace(beside, path)


def sources(package: Path = PROJECT / "edge_s2a") -> list[Path]:
    """The files whose text decides what packing writes, and a few that do not: all but `APART`."""
    return sorted(path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in APART)


@cache
def digest_of_sources(package: Path = PROJECT / "edge_s2a") -> str:
    digest = hashlib.sha256()
    for path in sources(package):
        digest.update(f"{path.relative_to(package)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    digest.update(json.dumps([sys.version, *(version(name) for name in PACKAGES)]).encode())
    return digest.hexdigest()[:16]


def digest_of_options(options) -> str:
    """Files count by what they hold, wherever they lie."""

    def plain(value):
        if not isinstance(value, Path):
            return repr(value)
        files = sorted(path for path in value.rglob("*") if path.is_file()) if value.is_dir() else [value]
        return [[str(path.relative_to(value)), hashlib.sha256(path.read_bytes()).hexdigest()] for path in files]

    values = {name: value for name, value in vars(options).items() if name != "output"}
    return hashlib.sha256(json.dumps(values, default=plain, sort_keys=True).encode()).hexdigest()[:16]


def delete_old_artifacts(folder: Path = KEPT) -> None:
    """Deletes what other versions of the sources left, but for the latest."""
    if folder.exists() and not HOST:
        others = [path for path in folder.iterdir() if path.name != digest_of_sources()]
        others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in others[KEPT_VERSIONS:]:
            shutil.rmtree(path, ignore_errors=True)
