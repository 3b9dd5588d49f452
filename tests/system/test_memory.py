"""Memory and processors, as Linux tells and as psutil tells: on Linux both ways of reading agree."""

import json
import os
import subprocess
import sys

import psutil
import pytest

from edge_s2a.system import memory_linux, memory_portable
from edge_s2a.system.which import IS_LINUX
from tests.helpers.paths import PROJECT
from tests.helpers.systems import linux_alone

MIB = 1 << 20

GROW_AND_SHRINK = """
import json
from edge_s2a.system import memory, memory_portable
from edge_s2a.system.which import IS_LINUX, NOTE, PEAK
before = memory.resident_bytes()
block = bytearray(b"x") * (64 << 20)
grown = memory.resident_bytes()
del block
after = memory.resident_bytes()
print(json.dumps([before, grown, after, memory.peak_resident_bytes(), IS_LINUX, NOTE, PEAK]))
"""


def grow_and_shrink(system: str) -> list:
    """In a process of its own that reads memory as EDGE_S2A_SYSTEM=system says."""
    done = subprocess.run(
        [sys.executable, "-c", GROW_AND_SHRINK], capture_output=True, text=True, cwd=PROJECT, check=True,
        env={**os.environ, "EDGE_S2A_SYSTEM": system},
    )  # fmt: skip
    return json.loads(done.stdout)


@linux_alone
def test_resident_memory_is_the_same_number():
    assert memory_linux.resident_bytes() == pytest.approx(memory_portable.resident_bytes(), abs=MIB)


@linux_alone
def test_what_can_be_had_differs_by_cgroups_alone(monkeypatch):
    """Without cgroups both are what the process has and what the kernel can free; others take some meanwhile."""
    monkeypatch.setattr(memory_linux, "cgroup_limits", lambda root: iter(()))
    assert memory_linux.attainable_bytes() == pytest.approx(memory_portable.attainable_bytes(), rel=0.05)


@pytest.mark.parametrize("system", ["", "portable"])
def test_the_peak_stays_when_memory_has_gone(system):
    before, grown, after, peak, *_ = grow_and_shrink(system)
    assert grown - before >= 60 * MIB
    assert after < grown - 60 * MIB
    # The kernel counts pages per processor, and adds up exactly only now and then.
    assert grown - MIB < peak < grown + 8 * MIB


@linux_alone
def test_both_ways_of_reading_find_the_same_peak():
    assert grow_and_shrink("")[3] == pytest.approx(grow_and_shrink("portable")[3], abs=4 * MIB)


def test_elsewhere_a_sentence_says_what_is_not_promised():
    *_, is_linux, note, peak = grow_and_shrink("portable")
    assert not is_linux
    assert note == (
        "on this system the memory budget is planned and reported, but no kernel holds the process to it; the peak is "
        f"{peak}"
    )
    assert peak == "the largest sample taken between steps"


@linux_alone
def test_on_linux_nothing_needs_to_be_said():
    *_, is_linux, note, peak = grow_and_shrink("")
    assert is_linux
    assert note is None
    assert peak == "VmHWM"


@pytest.mark.skipif(IS_LINUX, reason="reads sysfs and cgroups instead")
def test_threads_are_no_more_than_cores():
    from edge_s2a.system.processors import usable_cores

    assert 1 <= usable_cores() <= (psutil.cpu_count() or 1)
