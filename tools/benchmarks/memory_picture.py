"""Draws the memory of one training step by category, as planned, with the measured resident memory on it.

    python -m tools.benchmarks.memory_picture deit.s2a --output docs/memory.svg [--batch-size 8]

From the artifact's plan: at each node of the training program the live bytes of weights (mapped ones that were read so
far, and those held in float32 for a product), saved tensors and workspace, on top of what the process holds when the
step begins. The engine's arena keeps what was once touched, so resident memory follows the highest address in use so
far: the planned line, which has the arena's handles and the reserve as a budget has them. The measured line is the
resident memory of a fresh process during its first step, read every millisecond; within a call of the program, time is
taken to pass evenly over the nodes.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_s2a.artifact.archive import PLAN, PROGRAM, WEIGHTS, Artifact, graph_member
from edge_s2a.artifact.onnx_graph import read_onnx_graph
from edge_s2a.artifact.program import from_json as program_from_json
from edge_s2a.artifact.tensors import decode
from edge_s2a.device.memory.budget import RUN_RESERVE_BYTES
from edge_s2a.plan.arena import live_bytes, region_overhead, simulate
from edge_s2a.plan.lifetimes import KINDS, Lifetime, from_json, with_threads

PROJECT = Path(__file__).parent.parent.parent
MIB = 1 << 20
SAMPLE_S = 0.001
MAX_SAMPLES = 100_000
POINTS = 400  # where the curves are computed, evenly over the nodes
THREADS = 2
BUDGET_BYTES = 16 << 30  # so that the whole batch runs at once and weights stay
WIDTH, HEIGHT = 960, 480
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 72, 48
# Text and planned line have the colour of the page's text; in a file of its own, what the system prefers.
COLOUR_ALONE = "<style>svg { color: #222 } @media (prefers-color-scheme: dark) { svg { color: #ddd } }</style>"
FAINT = 'stroke="currentColor" stroke-opacity="0.15"'
# From the bottom of the stack to its top.
BANDS = {
    "process before the step": "#8a8f98",
    "weights": "#8da0cb",
    "saved tensors": "#fc8d62",
    "workspace": "#66c2a5",
}


# -- measured, in a process of its own -----------------------------------------------------------------


def measure(path: Path, batch: int) -> dict:
    """Runs one training step; {"samples": [[time, resident bytes], ...], "ends": [time of each call's end],
    "start": time, "start_bytes", "region_bytes"}, times in s."""
    import edge_s2a.device.engine.onnxruntime as session
    from edge_s2a.device.engine.base import EngineSettings
    from edge_s2a.device.load import load
    from edge_s2a.system.memory import resident_bytes

    runtime = load(path, BUDGET_BYTES, batch, EngineSettings(THREADS), "adamw")
    manifest = runtime.artifact.manifest
    image = np.ones((batch, 3, *manifest.preprocessing.image_size), np.float32)
    target = np.full((batch, manifest.num_classes), 1 / batch / manifest.num_classes, np.float32)
    ends: list[float] = []
    samples = np.full((MAX_SAMPLES, 2), np.nan)  # float64 (samples, 2), resident from the start
    run_step = session._run_step

    def timed(*arguments):
        outputs = run_step(*arguments)
        ends.append(time.monotonic())
        return outputs

    def sample() -> None:
        for row in samples:
            if finished.wait(SAMPLE_S):
                break
            row[:] = time.monotonic(), resident_bytes()

    session._run_step = timed
    finished = threading.Event()
    sampler = threading.Thread(target=sample)
    sampler.start()
    time.sleep(0.1)  # the thread's own memory is there before the step
    start, start_bytes = time.monotonic(), resident_bytes()
    runtime.engine.training_step(image, target)
    finished.set()
    sampler.join()
    return {
        "samples": samples[samples[:, 0] >= start].tolist(),
        "ends": ends,
        "start": start,
        "start_bytes": start_bytes,
        "region_bytes": runtime.plan.arena_bytes,
    }


def measure_apart(path: Path, batch: int) -> dict:
    """The same in a process that has imported and run nothing else."""
    call = f"m.measure(pathlib.Path({str(path)!r}), {batch})"
    code = f"import json, pathlib; from tools.benchmarks import memory_picture as m; print(json.dumps({call}))"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


# -- planned -------------------------------------------------------------------------------------------


class Calls(NamedTuple):
    """The calls of the training program."""

    ends: np.ndarray  # int64 (calls,): nodes run when each has ended
    weight_bytes: np.ndarray  # int64 (calls,): mapped weights that it and those before it have read


class Curves(NamedTuple):
    """Bytes at some nodes of the training program."""

    nodes: np.ndarray  # int64 (points,)
    weights: np.ndarray  # int64 (points,), and so on: live bytes
    saved: np.ndarray
    workspace: np.ndarray
    planned: np.ndarray  # mapped weights, the highest address in use so far, the arena's handles, the reserve


def calls_of(artifact: Artifact) -> Calls:
    program = program_from_json(artifact.read(PROGRAM), artifact.graph_count, str(artifact.path))["training"]
    graphs = {call.graph: artifact.read(graph_member(call.graph)) for call in program}
    nodes = {number: len(read_onnx_graph(graph).nodes) for number, graph in graphs.items()}
    weights, _ = decode(artifact.map(WEIGHTS), str(artifact.path))
    read: dict[str, np.ndarray] = {}
    weight_bytes = []
    for call in program:
        read |= {name: weights[name] for name in call.inputs if name in weights}
        weight_bytes.append(sum(array.nbytes for array in read.values()))
    return Calls(np.cumsum([nodes[call.graph] for call in program]), np.array(weight_bytes))


def plan_curves(lifetimes: list[Lifetime], batch: int, region_bytes: int, calls: Calls) -> Curves:
    count = 1 + max(life.last for life in lifetimes)
    live = {
        kind: np.array(live_bytes([life for life in lifetimes if life.kind == kind], batch, count)) for kind in KINDS
    }
    nodes = np.unique(np.linspace(0, len(live["saved"]) - 1, POINTS).astype(np.int64))
    started = [[life for life in lifetimes if life.first <= node] for node in nodes]
    highest = np.array([simulate(some, batch, region_bytes).arena_bytes if some else 0 for some in started])
    mapped = calls.weight_bytes[np.searchsorted(calls.ends, nodes, side="right")]
    return Curves(
        nodes,
        mapped + live["weight"][nodes],
        live["saved"][nodes],
        (live["workspace"] + live["segments"])[nodes],
        mapped + highest + region_overhead(region_bytes) + RUN_RESERVE_BYTES,
    )


# -- drawn ---------------------------------------------------------------------------------------------


class Axes(NamedTuple):
    """The scales of the picture."""

    nodes: int
    top_bytes: int

    def x(self, node: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * node / self.nodes

    def y(self, size: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * size / self.top_bytes

    def points(self, nodes: np.ndarray, sizes: np.ndarray) -> str:
        return " ".join(f"{self.x(node):.1f},{self.y(size):.1f}" for node, size in zip(nodes, sizes, strict=True))


def text(x: float, y: float, words: str, anchor: str = "start", size: int = 12) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f'<text {place} fill="currentColor">{words}</text>'


def line(x1: float, y1: float, x2: float, y2: float, stroke: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {stroke}/>'


def draw(title: str, curves: Curves, first_backward: int, measured: dict, measured_nodes: np.ndarray) -> str:
    """The picture as SVG."""
    start_bytes = measured["start_bytes"]
    sizes = np.array([size for _, size in measured["samples"]])
    axes = Axes(int(curves.nodes[-1]), int(1.05 * max(sizes.max(), start_bytes + curves.planned.max())))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        COLOUR_ALONE,
        text(LEFT, 24, title, size=16),
    ]
    tick_bytes = next(step * MIB for step in (10, 20, 50, 100, 200, 500, 1000) if axes.top_bytes < 12 * step * MIB)
    for size in range(0, axes.top_bytes, tick_bytes):
        parts.append(line(LEFT, axes.y(size), WIDTH - RIGHT, axes.y(size), FAINT))
        parts.append(text(LEFT - 6, axes.y(size) + 4, f"{size // MIB}", "end"))
    parts.append(text(LEFT - 6, TOP - 8, "MiB", "end"))

    base = np.zeros(len(curves.nodes))
    legend_x = LEFT
    fixed = np.full(len(curves.nodes), start_bytes)
    for (name, colour), band in zip(
        BANDS.items(), (fixed, curves.weights, curves.saved, curves.workspace), strict=True
    ):
        outline = axes.points(curves.nodes, base + band) + " " + axes.points(curves.nodes[::-1], base[::-1])
        parts.append(f'<polygon points="{outline}" fill="{colour}"/>')
        base = base + band
        parts.append(f'<rect x="{legend_x}" y="38" width="12" height="12" fill="{colour}"/>')
        parts.append(text(legend_x + 18, 48, name))
        legend_x += 40 + 7 * len(name)

    lines = {
        "planned": (curves.nodes, start_bytes + curves.planned, 'stroke="currentColor" stroke-dasharray="6 3"'),
        "measured": (measured_nodes, sizes, 'stroke="#d01c1c"'),
    }
    for name, (nodes, heights, stroke) in lines.items():
        parts.append(f'<polyline points="{axes.points(nodes, heights)}" fill="none" stroke-width="1.5" {stroke}/>')
        parts.append(line(legend_x, 44, legend_x + 22, 44, f'stroke-width="1.5" {stroke}'))
        parts.append(text(legend_x + 28, 48, name))
        legend_x += 50 + 7 * len(name)

    middle = axes.x(first_backward)
    parts.append(line(middle, TOP, middle, HEIGHT - BOTTOM, 'stroke="#888888" stroke-dasharray="2 3"'))
    parts.append(text(middle - 6, HEIGHT - BOTTOM + 16, "forward", "end"))
    parts.append(text(middle + 6, HEIGHT - BOTTOM + 16, "backward"))
    parts.append(text((LEFT + WIDTH) / 2, HEIGHT - 10, f"nodes of the training program, {axes.nodes + 1}", "middle"))
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    batch = options.batch_size

    measured = measure_apart(options.artifact, batch)
    artifact = Artifact(options.artifact)
    manifest = artifact.manifest
    graphs = with_threads(from_json(artifact.read(PLAN), str(options.artifact)), THREADS)
    calls = calls_of(artifact)
    curves = plan_curves(graphs["training"].lifetimes, batch, measured["region_bytes"], calls)
    measured_nodes = np.interp(
        [at for at, _ in measured["samples"]], [measured["start"], *measured["ends"]], [0, *calls.ends]
    )
    first_backward = 1 + max(life.first for life in graphs["training"].lifetimes if life.kind == "saved")
    title = (
        f"{manifest.model}, {'+'.join(manifest.adapter)}, {manifest.saved_bits}-bit saved tensors, "
        f"{manifest.weight_format} weights, batch {batch}: one training step"
    )
    options.output.write_text(draw(title, curves, first_backward, measured, measured_nodes))
    planned_bytes = measured["start_bytes"] + int(curves.planned.max())
    measured_bytes = max(size for _, size in measured["samples"])
    print(f"planned {planned_bytes / MIB:.1f} MiB, measured {measured_bytes / MIB:.1f} MiB")


if __name__ == "__main__":
    main()
