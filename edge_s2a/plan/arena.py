"""What the engine's arena does with a sequence of lifetimes.

onnxruntime's BFC arena (core/framework/bfc_arena.cc), as the device configures it: one region, sizes
rounded up to 256 bytes, best fit by (size, address), a free chunk always split, neighbours coalesced.
Memory once touched stays resident, so the peak is the highest address that was ever in use. Best fit
takes the region's tail where that is smaller than a hole, so what fits depends on the region's size, and
not always monotonically: the simulation is told the size that the engine will be given.
"""

import bisect
import itertools
from collections.abc import Callable
from typing import NamedTuple

from edge_s2a.plan.lifetimes import KINDS, GraphPlan, Lifetime

ALIGNMENT = 256
HANDLE_BYTES = 8
UNBOUNDED = 1 << 62
# How much more region to try where best fit fails in the least one.
REGION_GROWTH = 1.005
ROOM = 1.25


class Peak(NamedTuple):
    """The peak of one run, and what was live when the arena grew to it."""

    arena_bytes: int  # highest address in use
    addresses: list[int]  # of the lifetimes' buffers
    live_bytes: dict[str, int]  # by kind, at the moment of the most live bytes


def round_up(size: int) -> int:
    return max(ALIGNMENT, -(-size // ALIGNMENT) * ALIGNMENT)


def simulate(lifetimes: list[Lifetime], batch: int, region_bytes: int = UNBOUNDED) -> Peak | None:
    """Replays the allocations of one run with `batch` images; None if one of them does not fit."""
    region_bytes -= region_bytes % ALIGNMENT
    free_by_size: list[tuple[int, int]] = [(region_bytes, 0)]  # (size, address), sorted
    size_at = {0: region_bytes}  # free chunks by start
    start_at_end = {region_bytes: 0}  # free chunks by end

    def remove(address: int) -> int:
        size = size_at.pop(address)
        del start_at_end[address + size]
        free_by_size.pop(bisect.bisect_left(free_by_size, (size, address)))
        return size

    def insert(address: int, size: int) -> None:
        size_at[address] = size
        start_at_end[address + size] = address
        bisect.insort(free_by_size, (size, address))

    addresses: list[int] = []
    used: dict[int, tuple[int, int]] = {}
    expiring: dict[int, list[int]] = {}
    live = dict.fromkeys(KINDS, 0)
    peak_live: dict[str, int] = dict(live)
    high = 0
    clock = 0
    for index, life in enumerate(lifetimes):
        while clock < life.first:
            for number in expiring.pop(clock, ()):
                address, size = used.pop(number)
                live[lifetimes[number].kind] -= size
                if address + size in size_at:
                    size += remove(address + size)
                before = start_at_end.get(address)
                if before is not None:
                    size += remove(before)
                    address = before
                insert(address, size)
            clock += 1
        size = round_up(life.size(batch))
        place = bisect.bisect_left(free_by_size, (size, 0))
        if place == len(free_by_size):
            return None
        chunk_size, address = free_by_size[place]
        remove(address)
        if chunk_size > size:
            insert(address + size, chunk_size - size)
        addresses.append(address)
        used[index] = (address, size)
        expiring.setdefault(life.last, []).append(index)
        high = max(high, address + size)
        live[life.kind] += size
        if sum(live.values()) > sum(peak_live.values()):
            peak_live = dict(live)
    return Peak(high, addresses, peak_live)


def arena_peak(graphs: dict[str, GraphPlan], batch: int) -> Peak:
    """The peak of whichever graph needs most in an unbounded region, with the constants of all."""
    constant_bytes = sum(graph.constant_bytes for graph in graphs.values())
    peaks = [simulate(graph.lifetimes, batch) for graph in graphs.values()]
    highest = max(peaks, key=lambda peak: peak.arena_bytes)
    return highest._replace(arena_bytes=highest.arena_bytes + constant_bytes)


def runs_in(graphs: dict[str, GraphPlan], batch: int, region_bytes: int) -> bool:
    """Whether every graph runs with `batch` images in a region of this size.

    Versions of the engine differ in how many of the constants they keep in the arena: none or all must do.
    """
    all_constants = sum(graph.constant_bytes for graph in graphs.values())
    return all(
        simulate(graph.lifetimes, batch, region_bytes - constant_bytes) is not None
        for graph in graphs.values()
        for constant_bytes in (0, all_constants)
    )


def touched_bytes(graphs: dict[str, GraphPlan], batch: int, region_bytes: int) -> int:
    """The part of a region in which every graph runs that becomes resident, constants included."""
    constant_bytes = sum(graph.constant_bytes for graph in graphs.values())
    peaks = [simulate(graph.lifetimes, batch, region_bytes - constant_bytes) for graph in graphs.values()]
    return constant_bytes + max(peak.arena_bytes for peak in peaks)


def smallest_region(graphs: dict[str, GraphPlan], batch: int) -> int:
    """The bytes of the smallest region found in which every graph runs with `batch` images."""
    return region_from(arena_peak(graphs, batch).arena_bytes, graphs, batch)


def roomy_region(graphs: dict[str, GraphPlan], batch: int) -> int:
    """The bytes of a region with some room: at least ROOM times the peak."""
    return region_from(round_up(int(arena_peak(graphs, batch).arena_bytes * ROOM)), graphs, batch)


def region_from(region_bytes: int, graphs: dict[str, GraphPlan], batch: int) -> int:
    while not runs_in(graphs, batch, region_bytes):
        region_bytes = round_up(int(region_bytes * REGION_GROWTH))
    return region_bytes


def region_overhead(region_bytes: int) -> int:
    """Bytes that the arena keeps beside the region: a handle of 8 bytes for each 256."""
    return region_bytes // ALIGNMENT * HANDLE_BYTES


def live_peak(lifetimes: list[Lifetime], batch: int) -> int:
    """The most bytes live at any node: no allocator can do with less. Bounds `simulate` from below."""
    return max(live_bytes(lifetimes, batch, 1 + max((life.last for life in lifetimes), default=0)))


def live_bytes(lifetimes: list[Lifetime], batch: int, nodes: int) -> list[int]:
    """Bytes that are live while each of `nodes` nodes runs."""
    changes = [0] * (nodes + 1)
    for life in lifetimes:
        size = round_up(life.size(batch))
        changes[life.first] += size
        changes[life.last + 1] -= size
    return list(itertools.accumulate(changes[:-1]))


def largest_batch(fits: Callable[[int], bool], limit: int) -> int:
    """The largest batch in 1..limit for which `fits` holds, 0 if none; `fits` must be monotone."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
