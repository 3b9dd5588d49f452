"""The planner against the engine itself, and against slower planners."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_s2a.artifact.archive import PLAN, Artifact
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.device.engine.onnxruntime import OnnxRuntimeEngine
from edge_s2a.errors import ArenaExhausted
from edge_s2a.plan.arena import (
    arena_peak,
    largest_batch,
    live_peak,
    preferred_arena_bytes,
    resident_arena_bytes,
    round_up,
    runs_in,
    simulate,
    smallest_arena_bytes,
)
from edge_s2a.plan.lifetimes import GraphPlan, Lifetime, from_json, with_threads
from tests.helpers.artifacts import pack
from tests.helpers.paths import PROJECT

RUN_IN_REGION = """
import sys
from pathlib import Path
import numpy as np
from edge_s2a.artifact.archive import Artifact
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.device.engine.onnxruntime import OnnxRuntimeEngine
from edge_s2a.errors import ArenaExhausted
path, batch, region = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
artifact = Artifact(path)
height, width = artifact.manifest.preprocessing.image_size
engine = OnnxRuntimeEngine(artifact, EngineSettings(threads=int(sys.argv[4])), arena_bytes=region)
image = np.zeros((batch, 3, height, width), np.float32)
try:
    for _ in range(2):
        engine.training_step(image, np.zeros((batch, artifact.manifest.num_classes), np.float32))
        engine.logits(image)
    print("fits")
except ArenaExhausted as error:
    print("exhausted:", error)
"""


ADDRESSES = """
import sys
from pathlib import Path
import numpy as np
import edge_s2a.device.engine.onnxruntime as session
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.artifact.archive import PLAN, PROGRAM, Artifact, graph_member
from edge_s2a.artifact.onnx_graph import read_onnx_graph
from edge_s2a.artifact.program import from_json as program_from_json
from edge_s2a.plan.arena import preferred_arena_bytes, simulate
from edge_s2a.plan.lifetimes import from_json
path, batch = Path(sys.argv[1]), int(sys.argv[2])
artifact = Artifact(path)
plans = from_json(artifact.read(PLAN), "plan")
calls = program_from_json(artifact.read(PROGRAM), artifact.graph_count, "program")["training"]
graphs = [read_onnx_graph(artifact.read(graph_member(number))) for number in range(artifact.graph_count)]
region = preferred_arena_bytes(plans, batch)
engine = session.OnnxRuntimeEngine(artifact, EngineSettings(threads=1), arena_bytes=region)
real, run_step = [], session._run_step
def observed(step, values, results):
    outputs = run_step(step, values, results)
    real.append({name: value.data_ptr() for name, value in outputs.items() if name not in results})
    return outputs
session._run_step = observed
size = artifact.manifest.preprocessing.image_size
engine.training_step(np.zeros((batch, 3, *size), np.float32),
                     np.zeros((batch, artifact.manifest.num_classes), np.float32))
lifetimes = plans["training"].lifetimes
addresses = simulate(lifetimes, batch, region).addresses
start, offsets = 0, []
for call, pointers in zip(calls, real):
    graph = graphs[call.graph]
    for number, node in enumerate(graph.nodes):
        for local in node.outputs:
            name = dict(zip(graph.outputs, call.outputs)).get(local)
            if name in pointers:
                kind = graph.types[local]
                bytes_wanted = kind.bytes() * (batch if kind.times_batch else 1)
                places = [i for i, life in enumerate(lifetimes)
                          if life.first == start + number and life.size(batch) == bytes_wanted]
                offsets.append(pointers[name] - addresses[places[0]])
    start += len(graph.nodes)
print(len(offsets), len(set(offsets)))
"""


def run_in_region(path, batch, region_bytes, threads=1):
    command = [sys.executable, "-c", RUN_IN_REGION, str(path), str(batch), str(region_bytes), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_the_engine_needs_what_is_planned(deit_artifact, batch):
    """It runs in the region that it is given, and not in 3 % less than the simulated peak."""
    plans = from_json(Artifact(deit_artifact).read(PLAN), "plan")
    assert run_in_region(deit_artifact, batch, preferred_arena_bytes(plans, batch)) == "fits"
    assert smallest_arena_bytes(plans, batch) <= 1.05 * arena_peak(plans, batch).arena_bytes
    too_little = int(0.97 * arena_peak(plans, batch).arena_bytes)
    assert run_in_region(deit_artifact, batch, too_little).startswith("exhausted")


def test_a_limit_binds_its_own_engine_alone(deit_artifact):
    """Whatever engines one process makes, and in which order."""
    artifact = Artifact(deit_artifact)
    plans = from_json(artifact.read(PLAN), "plan")
    image = np.zeros((1, 3, *artifact.manifest.preprocessing.image_size), np.float32)
    target = np.zeros((1, artifact.manifest.num_classes), np.float32)
    roomy = OnnxRuntimeEngine(artifact, EngineSettings(threads=1), arena_bytes=preferred_arena_bytes(plans, 1))
    tight = OnnxRuntimeEngine(
        artifact, EngineSettings(threads=1), arena_bytes=int(0.9 * arena_peak(plans, 1).arena_bytes)
    )
    unlimited = OnnxRuntimeEngine(artifact, EngineSettings(threads=1))
    for _ in range(2):
        with pytest.raises(ArenaExhausted):
            tight.training_step(image, target)
        logits = unlimited.training_step(image, target).logits
        np.testing.assert_array_equal(roomy.training_step(image, target).logits, logits)


@pytest.fixture(scope="module")
def mobilenet_artifact(tmp_path_factory):
    """Convolutions with scratch memory, and masks of one bit."""
    path = tmp_path_factory.mktemp("mobilenet") / "mobilenet.s2a"
    return pack(path, model="mobilenetv2_050", model_kwargs={}, image_size=96, labels=None, num_classes=5)


@pytest.fixture(scope="module")
def int8_artifact(tmp_path_factory):
    """Products in int8, of rows with a scale each."""
    return pack(tmp_path_factory.mktemp("int8") / "int8.s2a", compute="int8")


@pytest.mark.parametrize("batch", [1, 2])
def test_the_engine_places_buffers_where_the_simulated_arena_does(
    deit_artifact, mobilenet_artifact, int8_artifact, batch
):
    """Every value that passes between graphs, at one distance from its simulated address."""
    for path in (deit_artifact, mobilenet_artifact, int8_artifact):
        command = [sys.executable, "-c", ADDRESSES, str(path), str(batch)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=True)
        values, distances = map(int, done.stdout.split())
        assert values > 30
        assert distances == 1


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 2])
def test_convolutions_run_in_the_smallest_arena(mobilenet_artifact, batch, threads):
    plans = with_threads(from_json(Artifact(mobilenet_artifact).read(PLAN), "plan"), threads)
    assert run_in_region(mobilenet_artifact, batch, smallest_arena_bytes(plans, batch), threads) == "fits"


@pytest.mark.parametrize("batch", [1, 4])
def test_the_engine_unpacks_int4_weights_in_what_is_planned(tmp_path, batch):
    """For one image the codes, a byte each, weigh as much as the activations."""
    depth = {"depth": 2}
    path = pack(
        tmp_path / "int4.s2a", model="deit_tiny_patch16_224", model_kwargs=depth, labels=None, weight_format="int4"
    )
    plans = from_json(Artifact(path).read(PLAN), "plan")
    assert run_in_region(path, batch, preferred_arena_bytes(plans, batch)) == "fits"
    too_little = int(0.97 * arena_peak(plans, batch).arena_bytes)
    assert run_in_region(path, batch, too_little).startswith("exhausted")


@pytest.mark.parametrize("batch", [1, 3])
def test_an_overrun_is_a_clean_error_that_names_the_node(deit_artifact, batch):
    """Less than what is live at one moment cannot do for any allocator."""
    plans = from_json(Artifact(deit_artifact).read(PLAN), "plan")
    constants = sum(plan.constant_bytes for plan in plans.values())
    too_little = live_peak(plans["training"].lifetimes, batch) + constants - (1 << 16)
    assert run_in_region(deit_artifact, batch, too_little).startswith("exhausted: the engine needs more memory")


@st.composite
def plans(draw):
    lifetimes, first = [], 0
    for _ in range(draw(st.integers(1, 40))):
        first += draw(st.integers(0, 2))
        size = draw(st.integers(0, 5000))
        lifetimes.append(Lifetime(first, first + draw(st.integers(0, 12)), size, 7, "workspace"))
    return lifetimes


@given(lifetimes=plans(), batch=st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_the_arena_lies_between_what_is_live_and_all_buffers_side_by_side(lifetimes, batch):
    sizes = [round_up(life.size(batch)) for life in lifetimes]
    naive_live = max(
        sum(size for life, size in zip(lifetimes, sizes, strict=True) if life.first <= node <= life.last)
        for node in range(lifetimes[-1].first + 1)
    )
    peak = simulate(lifetimes, batch)
    assert live_peak(lifetimes, batch) == naive_live
    assert naive_live <= peak.arena_bytes <= sum(sizes)
    assert sum(peak.live_bytes.values()) == naive_live


@given(lifetimes=plans(), batch=st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_a_region_too_small_is_reported(lifetimes, batch):
    least = live_peak(lifetimes, batch)
    assert simulate(lifetimes, batch, least - 256) is None
    enough = sum(round_up(life.size(batch)) for life in lifetimes) * 2
    assert simulate(lifetimes, batch, enough).arena_bytes <= enough


@given(training=plans(), inference=plans(), constants=st.integers(0, 2000), batch=st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_every_region_that_is_given_does_for_both_graphs(training, inference, constants, batch):
    graphs = {"training": GraphPlan(constants, training), "inference": GraphPlan(0, inference)}
    for region_bytes in (smallest_arena_bytes(graphs, batch), preferred_arena_bytes(graphs, batch)):
        assert runs_in(graphs, batch, region_bytes)
        least = max(live_peak(training, batch), live_peak(inference, batch))
        assert least <= resident_arena_bytes(graphs, batch, region_bytes) <= region_bytes


def test_best_fit_may_need_more_than_a_quarter_above_the_peak():
    """Without bound the buffer of 512 bytes goes where that of 2048 was, and all is done in 3072. In 3840 it goes to
    the tail, which is then smaller than that hole, and parts the room that the last one needs."""
    sizes = {(1, 3): 2048, (3, 5): 256, (5, 7): 512, (6, 6): 2560}
    lifetimes = [Lifetime(first, last, 0, size, "workspace") for (first, last), size in sizes.items()]
    assert simulate(lifetimes, 1).arena_bytes == 3072
    assert simulate(lifetimes, 1, 3840) is None
    graphs = {"training": GraphPlan(0, lifetimes), "inference": GraphPlan(0, lifetimes)}
    assert simulate(lifetimes, 1, preferred_arena_bytes(graphs, 1)) is not None


@given(limit=st.integers(0, 50), threshold=st.integers(0, 60))
def test_largest_batch(limit, threshold):
    assert largest_batch(lambda batch: batch <= threshold, limit) == min(limit, threshold)
