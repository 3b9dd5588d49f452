"""The engine on onnxruntime: typed failures, and settings that are each engine's own."""

import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from edge_s2a.artifact.archive import PLAN, Artifact
from edge_s2a.device.engine.base import PROVIDERS, EngineSettings
from edge_s2a.device.engine.onnxruntime import EXECUTION_PROVIDERS, Arena, OnnxRuntimeEngine, is_out_of_memory
from edge_s2a.errors import ArenaExhausted, EngineError, UserError
from edge_s2a.plan.arena import arena_peak
from edge_s2a.plan.lifetimes import from_json
from tests.helpers.paths import PROJECT

ARENA = "/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal("
NODE = "Error in execution: Non-zero status code returned while running Conv node. Name:'memory' Status Message: "


def blank_batch(artifact, count=1):
    manifest = artifact.manifest
    image = np.zeros((count, 3, *manifest.preprocessing.image_size), np.float32)
    return image, np.full((count, manifest.num_classes), 1 / count / manifest.num_classes, np.float32)


# -- failures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        # As onnxruntime 1.19 and 1.32 were seen to raise them.
        RuntimeError(f"{NODE}{ARENA}size_t) Available memory of 0 is smaller than requested bytes of 26112"),
        RuntimeError(f"{NODE}{ARENA}size_t) Failed to allocate memory for requested buffer of size 134217728"),
        RuntimeException(
            f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: {ARENA}size_t) Available "
            "memory of 0 is smaller than requested bytes of 256"
        ),
        RuntimeError(f"{NODE}std::bad_alloc"),
        RuntimeError(f"{NODE}CUDA failure 2: out of memory ; GPU=0"),
        MemoryError(),
    ],
)
def test_an_allocation_that_failed_is_recognised(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(f"{NODE}Got invalid dimensions for input: memory index: 0 Got: 3 Expected: 4"),
        RuntimeError("Error in execution: output shape is already allocated with another size"),
        RuntimeException("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : cannot open /data/memory/model.onnx"),
        ValueError("Available memory of 0 is smaller than requested bytes of 256"),
    ],
)
def test_other_failures_are_not_taken_for_it(error):
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("what", ["training_step", "logits"])
def test_a_batch_too_large_for_the_arena_is_exhaustion_and_smaller_ones_still_run(small_artifact, what):
    artifact = Artifact(small_artifact)
    plans = from_json(artifact.read(PLAN), "plan")
    engine = OnnxRuntimeEngine(
        artifact, EngineSettings(threads=1), arena_bytes=int(1.2 * arena_peak(plans, 1).arena_bytes)
    )

    def run(count):
        image, target = blank_batch(artifact, count)
        return engine.training_step(image, target) if what == "training_step" else engine.logits(image)

    for _ in range(2):
        with pytest.raises(ArenaExhausted, match="needs more memory than was planned"):
            run(64)
        run(1)


def test_another_failure_names_engine_and_artifact(small_artifact):
    """Images of another size than the graphs'."""
    engine = OnnxRuntimeEngine(Artifact(small_artifact), EngineSettings(threads=1))
    with pytest.raises(
        EngineError, match=f"onnxruntime {onnxruntime.__version__} fails in a graph of .*small"
    ) as caught:
        engine.logits(np.zeros((1, 3, 7, 9), np.float32))
    assert caught.value.exit_code == 4


# -- settings ------------------------------------------------------------------------------------------


def test_every_provider_is_known_to_the_adapter():
    assert tuple(EXECUTION_PROVIDERS) == PROVIDERS


def test_a_provider_that_is_missing_stops_its_own_engine_alone(small_artifact):
    artifact = Artifact(small_artifact)
    missing = [name for name in PROVIDERS if EXECUTION_PROVIDERS[name][0] not in onnxruntime.get_available_providers()]
    for name in missing:
        with pytest.raises(UserError, match="or omit --provider"):
            OnnxRuntimeEngine(artifact, EngineSettings(threads=1, provider=name))
    assert OnnxRuntimeEngine(artifact, EngineSettings(threads=1)).providers == ["CPUExecutionProvider"]


SETTINGS = """
import sys
from pathlib import Path
import numpy as np
import onnxruntime
from edge_s2a.artifact.archive import Artifact
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.device.load import start_engine
from edge_s2a.device.engine.onnxruntime import OnnxRuntimeEngine

artifact = Artifact(Path(sys.argv[1]))
image = np.random.default_rng(0).random((2, 3, *artifact.manifest.preprocessing.image_size), np.float32)
if sys.argv[2] == "taken":
    onnxruntime.set_global_thread_pool_sizes(2, 1)

def options_of(engine):
    options = engine._programs["inference"][0].session.get_session_options()
    return (options.intra_op_num_threads, options.use_per_session_threads)

engines = []
if sys.argv[2] == "free":
    engines = [OnnxRuntimeEngine(artifact, EngineSettings(threads)) for threads in (1, 2)]
    assert [options_of(engine) for engine in engines] == [(1, True), (2, True)]
shared = start_engine("cpu", 2)
assert start_engine("cpu", 3) == shared == EngineSettings(2, "cpu"), "the first call decides"
engines += [OnnxRuntimeEngine(artifact, shared), OnnxRuntimeEngine(artifact, EngineSettings(1))]
assert [options_of(engine)[1] for engine in engines[-2:]] == [False, False]
logits = [engine.logits(image) for engine in engines]
for other in logits[1:]:
    np.testing.assert_allclose(other, logits[0], rtol=1e-4, atol=1e-5)
"""


@pytest.mark.skipif(
    not hasattr(onnxruntime, "set_global_thread_pool_sizes"), reason="this onnxruntime cannot share threads"
)
@pytest.mark.parametrize("pool", ["free", "taken"])
def test_engines_of_different_settings_live_in_one_process(small_artifact, pool):
    """Each with its own threads, until `start_engine` makes all that follow share one pool; also where the program has
    made that pool itself."""
    command = [sys.executable, "-c", SETTINGS, str(small_artifact), pool]
    subprocess.run(command, cwd=PROJECT, check=True)


REFUSAL = "Error when creating and registering allocator: An allocator for this device has already been registered for "


def test_an_engine_that_has_one_arena_shares_it_if_it_is_large_enough(monkeypatch):
    """onnxruntime 1.19 to 1.22, as its message says."""
    arena, registered = Arena(), []

    def register(memory, configuration):
        if registered:
            raise RuntimeError(REFUSAL + "sharing.")
        registered.append(configuration)

    monkeypatch.setattr(onnxruntime, "create_and_register_allocator", register)
    arena.reserve(50 << 20)
    arena.reserve(50 << 20)
    arena.reserve(20 << 20)
    with pytest.raises(UserError, match=r"one arena in a process: there is one of 50\.0 MiB, and 60\.0 MiB are needed"):
        arena.reserve(60 << 20)
