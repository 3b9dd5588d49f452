"""The fast tier: which cases are in it, and what holds them to it.

A case is slow if it starts a process or packs. Both show in the code that it may run, in tests/ and in its fixtures:
there a name of `SLOW` is used. Where the project's own code loads torch, a case says so: `@pytest.mark.slow`. A module
that imports torch is slow as a whole, and is not even imported.
"""

import os
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType

import pytest

from tests.helpers.paths import PROJECT

SLOW = {"subprocess", "multiprocessing", "torch", "timm", "edge_s2a.host.pack", "pack_at_once", "run_host_here"}
HEAVY_PACKAGES = {"torch", "torchvision", "timm"}
STARTS = ("subprocess.Popen", "os.system", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn")
# matplotlib asks this program for fonts, once on a machine.
ALLOWED_PROGRAMS = ("fc-list",)


# Folders whose files are few and long, the longest first: begun last, one worker would run them while the other waits.
LONGEST = ("docs", "deploy", "budget", "field", "export", "parity", "examples", "project", "wall", "cli")


def place_of(item: pytest.Item) -> int:
    """Sorts cases so that the longest files are begun first, in the order in which workers take files."""
    folder = item.path.relative_to(PROJECT / "tests").parts[0]
    return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)


def is_fast(item: pytest.Item) -> bool:
    if item.get_closest_marker("slow"):
        return False
    known = item._fixtureinfo.name2fixturedefs
    fixtures = [definition.func for name in item.fixturenames for definition in known.get(name, ())]
    case = item.function.hypothesis.inner_test if hasattr(item.function, "hypothesis") else item.function
    return SLOW.isdisjoint(name for function in (case, *fixtures) for name in names_in(function, set()))


def names_in(used: FunctionType | type, seen: set) -> Iterator[str]:
    """Every name in a function or class of tests/, and in the functions and classes of tests/ that it names."""
    if used in seen or not used.__module__.startswith("tests."):
        return
    seen.add(used)
    if isinstance(used, type):
        for member in vars(used).values():
            if isinstance(member, FunctionType):
                yield from names_in(member, seen)
        return
    for name in names_of_code(used.__code__):
        yield name
        value = used.__globals__.get(name)
        if isinstance(value, FunctionType | type):
            yield from names_in(value, seen)


def names_of_code(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_of_code(constant)


def forbid_what_is_slow() -> None:
    """From now on this process starts no other and imports no torch: a case that does fails, a module is skipped."""

    def hook(event: str, arguments: tuple) -> None:
        if event == "import" and arguments[0].partition(".")[0] in HEAVY_PACKAGES:
            reason = f"imports {arguments[0]}"
        elif event in STARTS and not (arguments and os.path.basename(str(arguments[0])) in ALLOWED_PROGRAMS):
            reason = f"starts a process: {event} {arguments[:2]}"
        else:
            return
        if "PYTEST_CURRENT_TEST" in os.environ:
            pytest.fail(f"not in the fast tier: {reason}; is it to be marked slow?")
        pytest.skip(f"not in the fast tier: {reason}", allow_module_level=True)

    sys.addaudithook(hook)
