"""Where the time of a training step goes, operator by operator.

    python -m tools.benchmarks.profile_step ARTIFACT.s2a [--batch 8] [--threads 2] [--steps 5] [--places 20]

Runs the artifact's training program on random images with the engine's own profiler, all images in one micro-batch. The
first step does not count. Tables: kinds of work, operators, and with --places the nodes that take most, by what they
read. *outside*: what the engine spends between nodes, and Python between graphs; the profiler's own cost is part of it.
"""

import argparse
import collections
import itertools
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

from edge_s2a.artifact.archive import Artifact
from edge_s2a.device.engine import onnxruntime as session
from edge_s2a.device.load import start_engine

KINDS = {
    "products": "Gemm MatMul FusedMatMul MatMulIntegerToFloat MatMulInteger Conv ConvTranspose FusedConv",
    "codes": "QuantizeLinear DequantizeLinear BitShift BitwiseAnd BitwiseOr",
    "reductions": "ReduceMax ReduceMin ReduceSum ReduceMean Softmax LogSoftmax LayerNormalization MaxPool AveragePool",
    "copies": "Transpose Concat Slice Split Gather Expand Pad Tile Cast Identity Reshape Shape ScatterElements",
}
OTHER = "element-wise"
OUTSIDE = "outside"


class Event:
    """One run of one node."""

    def __init__(self, record: dict):
        arguments = record["args"]
        self.operator, self.seconds = arguments["op_name"], record["dur"] / 1e6
        self.reads = ", ".join(
            f"{kind} {'x'.join(map(str, shape))}"
            for entry in arguments["input_type_shape"]
            for kind, shape in entry.items()
        )


def profiled_options(folder: str) -> type:
    numbers = itertools.count()  # the engine names files by the second

    class Options(onnxruntime.SessionOptions):
        def __init__(self):
            super().__init__()
            self.enable_profiling = True
            self.profile_file_prefix = f"{folder}/{next(numbers)}"

    return Options


def profile(artifact: Path, batch: int, threads: int, steps: int) -> tuple[list[Event], float]:
    """(the events of all steps, seconds a step)"""
    with tempfile.TemporaryDirectory() as folder:
        session.onnxruntime.SessionOptions = profiled_options(folder)
        opened = Artifact(artifact)
        engine = session.OnnxRuntimeEngine(opened, start_engine("cpu", threads))
        rng = np.random.default_rng(0)
        image = rng.standard_normal((batch, 3, *opened.manifest.preprocessing.image_size), np.float32)
        target = np.full((batch, engine.classes), 1 / (batch * engine.classes), np.float32)
        engine.training_step(image, target)
        start_s, start_us = time.perf_counter(), time.time_ns() // 1000
        for _ in range(steps):
            engine.training_step(image, target)
        step_s = (time.perf_counter() - start_s) / steps
        sessions = {id(step.session): step.session for calls in engine._programs.values() for step in calls}
        events = []
        for one in sessions.values():
            # The profiler counts microseconds from the start of its session.
            began_us = one.get_profiling_start_time_ns() // 1000
            for record in json.loads(Path(one.end_profiling()).read_text()):
                is_node = record.get("cat") == "Node" and record["name"].endswith("_kernel_time")
                if is_node and began_us + record["ts"] >= start_us:
                    events.append(Event(record))
    return events, step_s


def kind_of(operator: str) -> str:
    return next((kind for kind, operators in KINDS.items() if operator in operators.split()), OTHER)


def print_table(title: str, seconds: dict[str, float], counts: dict[str, int], step_s: float) -> None:
    print(f"| {title} | nodes | ms a step | share |\n|---|---|---|---|")
    for name in sorted(seconds, key=lambda name: -seconds[name]):
        share = 100 * seconds[name] / step_s
        print(f"| {name} | {counts.get(name) or ''} | {1000 * seconds[name]:.1f} | {share:.1f} % |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--places", type=int, default=0)
    options = parser.parse_args()
    events, step_s = profile(options.artifact, options.batch, options.threads, options.steps)
    print(f"{options.artifact.name}, batch {options.batch}: {1000 * step_s:.0f} ms a step\n")
    outside_s = step_s - sum(event.seconds for event in events) / options.steps
    for title, key, rows in (
        ("kind", lambda event: kind_of(event.operator), None),
        ("operator", lambda event: event.operator, None),
        ("node", lambda event: f"{event.operator} of {event.reads}", options.places),
    ):
        seconds, counts = collections.Counter(), collections.Counter()
        for event in events:
            seconds[key(event)] += event.seconds / options.steps
            counts[key(event)] += 1
        counts = {name: round(count / options.steps) for name, count in counts.items()}
        if rows is None:
            seconds[OUTSIDE] = outside_s
        elif not rows:
            continue
        print_table(title, dict(seconds.most_common(rows)), counts, step_s)


if __name__ == "__main__":
    main()
