"""Simulates the engine's arena allocator on a sequence of lifetimes.

onnxruntime's BFC arena (core/framework/bfc_arena.cc), as the device configures it: one region, sizes
rounded up to 256 bytes, best fit by (size, address), free chunks always split, neighbours coalesced.
Memory once touched stays resident, so the peak is the highest address ever in use. Best fit
takes the tail of the region where that is smaller than a hole, so what fits depends on the region's size, and
not always monotonically: the simulation is given the size that the engine will be given.
"""

import bisect
import itertools
from collections.abc import Callable
from typing import NamedTuple

from edge_s2a.plan.lifetimes import KINDS, GraphPlan, Lifetime

ALIGNMENT = 256
HANDLE_BYTES = 8
UNBOUNDED = 1 << 62
# By how much to enlarge an arena in which best fit fails before trying again.
GROWTH = 1.005
# The preferred arena over the peak: best fit fragments less where there is room.
HEADROOM = 1.25


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
    """The peak of the graph that needs most in an unbounded arena, with the constants of all graphs."""
    constant_bytes = sum(graph.constant_bytes for graph in graphs.values())
    highest = max(
        (_simulate_whole(graph, batch, UNBOUNDED) for graph in graphs.values()), key=lambda peak: peak.arena_bytes
    )
    return highest._replace(arena_bytes=highest.arena_bytes + constant_bytes)


def runs_in(graphs: dict[str, GraphPlan], batch: int, arena_bytes: int) -> bool:
    """Whether every graph runs with `batch` images in an arena of this size.

    Versions of the engine differ in how many of the constants they keep in the arena, so the graphs must run both
    with none of them there and with all of them.
    """
    all_constants = sum(graph.constant_bytes for graph in graphs.values())
    return all(
        simulate(graph.lifetimes, batch, arena_bytes - constant_bytes) is not None
        for graph in graphs.values()
        for constant_bytes in (0, all_constants)
    )


def resident_arena_bytes(graphs: dict[str, GraphPlan], batch: int, arena_bytes: int) -> int:
    """The bytes of an arena that become resident when every graph runs in it, constants included.

    `arena_bytes` must be a size in which they run (`runs_in`); raises ValueError otherwise.
    """
    constant_bytes = sum(graph.constant_bytes for graph in graphs.values())
    free_bytes = arena_bytes - constant_bytes
    return constant_bytes + max(_simulate_whole(graph, batch, free_bytes).arena_bytes for graph in graphs.values())


def smallest_arena_bytes(graphs: dict[str, GraphPlan], batch: int) -> int:
    """The smallest arena found in which every graph runs with `batch` images."""
    return _enlarged_until_it_runs(arena_peak(graphs, batch).arena_bytes, graphs, batch)


def preferred_arena_bytes(graphs: dict[str, GraphPlan], batch: int) -> int:
    """An arena with headroom in which every graph runs with `batch` images: at least HEADROOM times the peak."""
    return _enlarged_until_it_runs(round_up(int(arena_peak(graphs, batch).arena_bytes * HEADROOM)), graphs, batch)


def _enlarged_until_it_runs(arena_bytes: int, graphs: dict[str, GraphPlan], batch: int) -> int:
    while not runs_in(graphs, batch, arena_bytes):
        arena_bytes = round_up(int(arena_bytes * GROWTH))
    return arena_bytes


def _simulate_whole(graph: GraphPlan, batch: int, region_bytes: int) -> Peak:
    peak = simulate(graph.lifetimes, batch, region_bytes)
    if peak is None:
        raise ValueError(f"the graph does not run in {region_bytes} bytes with {batch} images")
    return peak


def region_overhead(region_bytes: int) -> int:
    """Bytes that the arena keeps for its own bookkeeping: a handle of 8 bytes for every 256 bytes of its region."""
    return region_bytes // ALIGNMENT * HANDLE_BYTES


def live_peak(lifetimes: list[Lifetime], batch: int) -> int:
    """The most bytes live at any node, which no allocator can go below: the lower bound of `simulate`."""
    return max(live_bytes(lifetimes, batch, 1 + max((life.last for life in lifetimes), default=0)))


def live_bytes(lifetimes: list[Lifetime], batch: int, nodes: int) -> list[int]:
    """The bytes live while each of `nodes` nodes runs."""
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
