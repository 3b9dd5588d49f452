"""Shared fixtures: small packed models, image folders, environments; and the tiers."""

import sys
from pathlib import Path

import pytest

from tests.helpers import tiers
from tests.helpers.artifacts import delete_old_artifacts, pack
from tests.helpers.environments import ORT_TRAINING, build_wheel, device_requirements, make_environment
from tests.helpers.images import write_images, write_photos

SOAK_ROWS: list[tuple] = []
ONE_ARENA = "has one arena in a process"


def pytest_addoption(parser):
    parser.addoption("--fast", action="store_true", help="only cases that neither start a process nor pack")


def pytest_configure(config):
    is_worker = hasattr(config, "workerinput")
    starts_workers = bool(config.getoption("numprocesses", None)) and not is_worker
    if config.getoption("fast") and not starts_workers:
        tiers.forbid_what_is_slow()
    if not is_worker:
        delete_old_artifacts()


def pytest_collection_modifyitems(config, items):
    if config.getoption("fast"):
        slow = [item for item in items if not tiers.is_fast(item)]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    items.sort(key=tiers.place_of)


def pytest_collection_finish():
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)  # models this small gain nothing from a second one, which waits busily


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Skips cases that need a second arena of an onnxruntime that has one in a process (1.19 to 1.22)."""
    report = yield
    if call.excinfo is not None and ONE_ARENA in f"{call.excinfo.value}":
        report.outcome, report.longrepr = "skipped", (str(item.path), item.location[1], f"onnxruntime {ONE_ARENA}")
    return report


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
    return build_wheel(tmp_path_factory.mktemp("source") / "edge-s2a", tmp_path_factory.mktemp("wheel"))


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
    """{train,val}/<class>/*.png with 14 and 4 images per class."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "train", 14, seed=0)
    write_images(folder / "val", 4, seed=1)
    return folder


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory) -> Path:
    """Five classes of eight 300x260 JPEGs, the size of small photos."""
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def device_python(wheel) -> Path:
    """The interpreter of an environment that holds the wheel and the device's dependencies alone."""
    return make_environment(".venv-device", device_requirements(), wheel)


@pytest.fixture(scope="session")
def ort_training_python(wheel) -> Path:
    """The interpreter of an environment with the optional engine."""
    if sys.version_info >= (3, 12):
        pytest.skip("onnxruntime-training 1.19.2 has no wheel for Python above 3.11")
    return make_environment(".venv-ort-training", ORT_TRAINING, wheel)
