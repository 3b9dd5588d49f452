"""Checks a memory plan against the graphs that the engine will run, from their ONNX alone.

Independent of the planner (host/targets/), which works on the host's own graphs: at every node a plan must hold at
least what every engine needs, and at most what a naive planner takes, which shares nothing and frees nothing before
its graph has ended. The host checks every artifact that it packs, the device every artifact that it loads.
"""

import bisect
import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from edge_s2a.artifact.archive import PLAN, PROGRAM, Artifact, graph_member
from edge_s2a.artifact.names import is_result
from edge_s2a.artifact.onnx_graph import OnnxGraph, OnnxNode, OnnxType, read_onnx_graph
from edge_s2a.artifact.program import ALL, Call, Program, last_readers
from edge_s2a.artifact.program import from_json as program_from_json
from edge_s2a.errors import CheckError, UserError
from edge_s2a.plan.arena import ALIGNMENT, live_bytes, round_up, simulate
from edge_s2a.plan.lifetimes import GraphPlan, Lifetime, from_json

MAY_OVERWRITE = {"Relu", "Sigmoid", "Tanh", "Softmax", "Clip", "Identity", "Cast"}
VIEW = "Reshape"
# A convolution's windows: copied in one segment per thread, or whole, at most its kernel's area times the image.
SEGMENT_BYTES = 64 * 1024
# Sizes are linear in the batch: what holds for the smallest and for a vast batch holds between.
BATCHES = (1, 1 << 20)


def verified_plans(artifact: Artifact, names: Collection[str] = ALL) -> dict[str, GraphPlan]:
    """The memory plans of the programs of an artifact that `names` has. Raises UserError if they, program or graphs
    are malformed, and CheckError if they are not those of its graphs."""
    where = str(artifact.path)
    plans = from_json(artifact.read(PLAN), where, names)
    programs = program_from_json(artifact.read(PROGRAM), artifact.graph_count, where, names)
    if plans.keys() != programs.keys():
        raise UserError(f"{where}: its programs and their memory plans have other names; repack the model")
    numbers = {call.graph for calls in programs.values() for call in calls}
    try:
        graphs = {number: read_onnx_graph(artifact.read(graph_member(number))) for number in sorted(numbers)}
        errors = plan_errors(plans, programs, graphs)
    except ValueError as error:
        raise UserError(f"{where} has a malformed graph ({error}); repack the model") from error
    if errors:
        raise CheckError(f"{where}: its memory plan is not that of its graphs: {errors[0]}; repack the model")
    return plans


def plan_errors(
    plans: dict[str, GraphPlan], programs: dict[str, Program], graphs: Mapping[int, OnnxGraph]
) -> list[str]:
    """The errors of the plans of `programs`, none if they hold. graphs: those that are called, by number. Raises
    ValueError if programs and graphs disagree."""
    errors = []
    for name, calls in programs.items():
        plan = plans[name]
        used = [graphs[number] for number in {call.graph for call in calls}]
        constant_bytes = sum(graph.constant_bytes for graph in used)
        rounding_bytes = ALIGNMENT * sum(graph.constants for graph in used)
        if not constant_bytes <= plan.constant_bytes <= constant_bytes + rounding_bytes:
            errors.append(f"{name} has {constant_bytes} bytes of constants, {plan.constant_bytes} are planned")
        count = sum(len(graphs[call.graph].nodes) for call in calls)
        if any(life.last >= count for life in plan.lifetimes):
            errors.append(f"{name} has {count} nodes, the plan more")
            continue
        least, most = needed_lifetimes(calls, graphs), naive_lifetimes(calls, graphs)
        for batch in BATCHES:
            needed, planned, naive = (
                np.array(live_bytes(lives, batch, count)) for lives in (least, plan.lifetimes, most)
            )
            for wrong, text in (
                (planned < needed, "fewer than are needed"),
                (planned > naive, "more than are used"),
            ):
                if wrong.any():
                    node = int(np.flatnonzero(wrong)[0])
                    errors.append(f"{planned[node]} bytes at node {node} of {name} with {batch} images, {text}")
    return errors


def needed_lifetimes(calls: Program, graphs: Mapping[int, OnnxGraph]) -> list[Lifetime]:
    """What must be in memory whatever the engine does: each value from the node that makes it to the last that reads
    it. A view counts as the value it is a view of, and an input that a node may overwrite ends before that node."""
    reads = {number: reads_of(graphs[number]) for number in {call.graph for call in calls}}
    starts = node_starts(calls, graphs)
    last_of: dict[str, int] = {}  # the last node that reads a value which passes between calls
    for call, start in zip(calls, starts, strict=True):
        for local, name in zip(graphs[call.graph].inputs, call.inputs, strict=True):
            last_of[name] = start + reads[call.graph].last.get(local, 0)
    lifetimes = []
    for call, start in zip(calls, starts, strict=True):
        graph, (last, overwritten) = graphs[call.graph], reads[call.graph]
        passed = {
            local: last_of[name] for local, name in outputs_of(call, graph) if name in last_of and not is_result(name)
        }
        outside = {*graph.outputs} - set(passed)
        for index, node in enumerate(graph.nodes):
            for name in node.outputs:
                if not name or name in outside or node.operator == VIEW:
                    continue
                end = last.get(name, index)
                if name in overwritten and name not in passed:
                    end -= 1
                lifetimes.append(lifetime(start + index, max(start + end, passed.get(name, 0)), graph.types[name]))
    return lifetimes


class Reads(NamedTuple):
    last: dict[str, int]  # the last node that reads a value or a view of it
    overwritten: set[str]  # values in whose memory that node may write its output


def reads_of(graph: OnnxGraph) -> Reads:
    viewed: dict[str, str] = {}
    last: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        last |= {viewed.get(name, name): index for name in node.inputs}
        if node.operator == VIEW:
            viewed[node.outputs[0]] = viewed.get(node.inputs[0], node.inputs[0])
    overwritten = set()
    for index, node in enumerate(graph.nodes):
        if node.operator in MAY_OVERWRITE and graph.types.get(node.inputs[0]) == graph.types[node.outputs[0]]:
            source = viewed.get(node.inputs[0], node.inputs[0])
            overwritten |= {source} if last[source] == index else set()
    return Reads(last, overwritten)


def naive_lifetimes(calls: Program, graphs: Mapping[int, OnnxGraph]) -> list[Lifetime]:
    """What a planner takes that gives every value, views and results included, memory of its own until the last call
    that reads it has ended."""
    lifetimes = []
    readers = last_readers(calls)
    starts = node_starts(calls, graphs)
    ends = [*starts[1:], starts[-1] + len(graphs[calls[-1].graph].nodes)]
    for number, call in enumerate(calls):
        graph = graphs[call.graph]
        last_call = {local: readers.get(name, number) for local, name in outputs_of(call, graph)}
        for index, node in enumerate(graph.nodes):
            first = starts[number] + index
            for name in node.outputs:
                if name:
                    end = ends[max(number, last_call.get(name, number))] - 1
                    lifetimes.append(lifetime(first, end, graph.types[name]))
            for size_type, size in scratch_bound(node, graph):
                lifetimes.append(lifetime(first, first, size_type, size))
    return lifetimes


def scratch_bound(node: OnnxNode, graph: OnnxGraph) -> list[tuple[OnnxType, int]]:
    """(type, number of tensors of it) that the node's kernel may take in addition to its outputs."""
    result = graph.types[node.outputs[0]]
    if node.operator == "Where":
        return [(result, 2)]
    if node.operator not in ("Conv", "ConvTranspose"):
        return []
    area = math.prod(graph.types[node.inputs[1]].shape[2:])
    return [(OnnxType(8, [SEGMENT_BYTES], 0), 1), (graph.types[node.inputs[0]], area), (result, area)]


def lifetime(first: int, last: int, value: OnnxType, count: int = 1) -> Lifetime:
    size = count * value.bytes()
    return Lifetime(first, last, size if value.times_batch else 0, 0 if value.times_batch else size, "workspace")


def node_starts(calls: Program, graphs: Mapping[int, OnnxGraph]) -> list[int]:
    """The number of each call's first node, counted through all calls."""
    return np.cumsum([0, *(len(graphs[call.graph].nodes) for call in calls[:-1])]).tolist()


def outputs_of(call: Call, graph: OnnxGraph) -> list[tuple[str, str]]:
    """(name within the graph, the program's name) of each value that a call makes."""
    return list(zip(graph.outputs, call.outputs, strict=True))


def placement_errors(plans: dict[str, GraphPlan], batch: int, region_bytes: int) -> list[str]:
    """The errors of the places that the simulated arena gives to the buffers of each program."""
    constant_bytes = sum(plan.constant_bytes for plan in plans.values())
    errors = []
    for name, plan in plans.items():
        peak = simulate(plan.lifetimes, batch, region_bytes - constant_bytes)
        if peak is None:
            errors.append(f"{name} does not fit {region_bytes} bytes")
        else:
            errors += address_errors(plan.lifetimes, batch, peak.addresses, region_bytes - constant_bytes)
    return errors


def address_errors(lifetimes: list[Lifetime], batch: int, addresses: list[int], region_bytes: int) -> list[str]:
    """The errors of a placement of buffers in a region: those that reach beyond it, or overlap while both live."""
    expiring: dict[int, list[tuple[int, int]]] = {}
    placed: list[tuple[int, int]] = []  # (address, end) of live buffers, sorted
    clock, errors = 0, []
    for life, address in zip(lifetimes, addresses, strict=True):
        while clock < life.first:
            for extent in expiring.pop(clock, ()):
                placed.pop(bisect.bisect_left(placed, extent))
            clock += 1
        extent = address, address + round_up(life.size(batch))
        if address < 0 or extent[1] > region_bytes:
            errors.append(f"a buffer of node {life.first} ends at {extent[1]} in a region of {region_bytes} bytes")
        place = bisect.bisect_left(placed, extent)
        neighbours = placed[max(0, place - 1) : place + 1]
        if any(other[0] < extent[1] and address < other[1] for other in neighbours):
            errors.append(f"a buffer of node {life.first} lies over another at {address}")
        placed.insert(place, extent)
        expiring.setdefault(life.last, []).append(extent)
    return errors
