"""The engine: the only file that imports onnxruntime.

Runs an artifact's programs call by call, each graph in the order in which the host wrote its nodes, with all buffers in
one arena of fixed size, and reads frozen weights where they lie in the mapped file, or from a small buffer.
"""

from typing import NamedTuple

import numpy as np
import onnxruntime
from onnxruntime.capi import _pybind_state

from edge_s2a.artifact.adapter import check_shapes
from edge_s2a.artifact.archive import ADAPTER, CONSTANTS, PROGRAM, WEIGHTS, Artifact, graph_member
from edge_s2a.artifact.names import IMAGE, LOGITS, LOSS, TARGET, gradient
from edge_s2a.artifact.program import FEATURES, Program, from_json, last_readers
from edge_s2a.artifact.tensors import decode
from edge_s2a.device.engine.streaming import Placed, WeightStream, streamed_bytes
from edge_s2a.errors import ArenaExhausted, CheckError, UserError

ENGINE_VERSION = onnxruntime.__version__
CPU = onnxruntime.OrtDevice.make("cpu", 0)._get_c_device()
_shared_threads: list[int] = []  # how many all graphs of this process share; empty where each graph has its own
# Each is tried before those after it, node by node; what none takes runs on the CPU.
PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}
_providers = PROVIDERS["cpu"].copy()  # of every session created afterwards


# float32 (batch, 3, height, width), normalised; or, where an artifact has such, features by name (Manifest.features).
Inputs = np.ndarray | dict[str, np.ndarray]


class StepResult(NamedTuple):
    loss: float
    logits: np.ndarray  # float32 (batch, classes), valid until the next run
    gradients: dict[str, np.ndarray]  # by adapter tensor, valid until the next run


def _reserve_arena(arena_bytes: int) -> None:
    """Replaces the arena that the sessions of an Engine with `arena_bytes` share; older sessions keep theirs.

    One region, reserved at once, becomes resident as it is touched. An allocation beyond it fails.
    """
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    configuration = onnxruntime.OrtArenaCfg(
        {
            "max_mem": arena_bytes,
            "initial_chunk_size_bytes": arena_bytes,
            "arena_extend_strategy": 0,
            "max_dead_bytes_per_chunk": 1,
        }
    )
    onnxruntime.create_and_register_allocator(memory, configuration)


def share_threads(threads: int) -> None:
    """Makes all graphs of this process share `threads` threads, where the engine can: onnxruntime 1.19 cannot.

    Afterwards it refuses any session with threads of its own, so this is for a process that is all ours, before its
    first Engine. The first call decides how many.
    """
    if not _shared_threads and hasattr(onnxruntime, "set_global_thread_pool_sizes"):
        onnxruntime.set_global_thread_pool_sizes(threads, 1)
        _shared_threads.append(threads)


def use_provider(name: str) -> None:
    """Makes every session created afterwards run on the provider `name`, one of PROVIDERS. Raises UserError if this
    engine has none of that kind."""
    available = onnxruntime.get_available_providers()
    if PROVIDERS[name][0] not in available:
        raise UserError(
            f"onnxruntime {ENGINE_VERSION} here has {', '.join(available)} and not {PROVIDERS[name][0]}; install "
            "the onnxruntime-gpu of your device (deploy/README.md), or leave --provider away"
        )
    _providers[:] = [provider for provider in PROVIDERS[name] if provider in available]


def providers() -> list[str]:
    """What sessions created now run on, the first wherever it can."""
    return _providers.copy()


class Step(NamedTuple):
    """One call of a program."""

    session: onnxruntime.InferenceSession
    inputs: list[tuple[str, str]]  # (name within the graph, value)
    outputs: list[tuple[str, str]]
    done: list[str]  # values that no later step reads
    streamed: list[Placed]  # weights to read into memory first
    handles: dict  # of these


class Engine:
    """The programs of an artifact, with the adapter's tensors as their live inputs."""

    def __init__(
        self,
        artifact: Artifact,
        threads: int,
        training: bool = True,
        stream_weights: bool = False,
        arena_bytes: int | None = None,
    ):
        """training=False leaves the training program out. stream_weights=True keeps only those frozen weights in memory
        that one call reads. arena_bytes bounds all buffers together; None leaves each graph an unbounded arena of its
        own. Raises UserError if the engine refuses a graph."""
        self.adapter_shapes = artifact.manifest.adapter_shapes
        self.classes = artifact.manifest.num_classes
        self.feature_shapes = artifact.manifest.features
        self._where = str(artifact.path)
        mapping = artifact.map(WEIGHTS)
        weights, _ = decode(mapping, f"{WEIGHTS} of {artifact.path}")
        self.weight_bytes = len(mapping)
        constants, _ = decode(artifact.read(CONSTANTS), f"{CONSTANTS} of {artifact.path}")
        initial, _ = decode(artifact.read(ADAPTER), f"{ADAPTER} of {artifact.path}")
        check_shapes(initial, artifact.manifest, f"{ADAPTER} of {artifact.path}")
        # The optimizer writes into these arrays, and the next run reads them there.
        self.adapter = {name: initial[name].copy() for name in self.adapter_shapes}
        lasting = constants | self.adapter if stream_weights else weights | constants | self.adapter
        self._arrays = lasting  # what the engine reads must stay where it is
        self._inputs = {name: _share(array) for name, array in lasting.items()}
        self._loss = _touched(())
        self._results = {LOSS: _share(self._loss)}
        if training:
            self._gradients = {name: _touched(array.shape) for name, array in self.adapter.items()}
            self._results |= {gradient(name): _share(array) for name, array in self._gradients.items()}

        programs = from_json(artifact.read(PROGRAM), artifact.graph_count, f"{PROGRAM} of {artifact.path}")
        if (FEATURES in programs) != bool(self.feature_shapes):
            raise UserError(f"{self._where}: program and manifest disagree; pack it anew")
        names = [name for name in programs if training or name != "training"]
        calls = [call for name in names for call in programs[name]]
        self.streamed_weight_bytes = max(streamed_bytes(weights, call) for call in calls)
        self._stream = WeightStream(artifact, weights, mapping, calls) if stream_weights else None
        used = sorted({call.graph for call in calls})
        if bounded := arena_bytes is not None:
            _reserve_arena(arena_bytes)
        sessions = {number: _session(artifact, graph_member(number), threads, bounded) for number in used}
        always = {*self._inputs, *weights}
        self._programs = {name: self._steps(programs[name], always, sessions) for name in names}

    def _steps(self, calls: Program, always: set[str], sessions: dict[int, onnxruntime.InferenceSession]) -> list[Step]:
        """always: the values that do not come from calls."""
        readers = last_readers(calls)
        known = {*always, IMAGE, TARGET, *self.feature_shapes}
        steps = []
        for index, call in enumerate(calls):
            session = sessions[call.graph]
            inputs = [entry.name for entry in session.get_inputs()]
            outputs = [entry.name for entry in session.get_outputs()]
            agree = len(inputs) == len(call.inputs) and len(outputs) == len(call.outputs)
            if not agree or not known.issuperset(call.inputs):
                raise UserError(f"{self._where}: program and graphs disagree; pack it anew")
            done = [name for name in set(call.inputs) if name not in always and readers[name] == index]
            done += [name for name in call.outputs if name not in readers]
            known.update(call.outputs)
            pairs = list(zip(inputs, call.inputs, strict=True)), list(zip(outputs, call.outputs, strict=True))
            streamed = self._stream.place(call) if self._stream else []
            handles = {weight.name: _share(weight.array) for weight in streamed}
            steps.append(Step(session, *pairs, done, streamed, handles))
        return steps

    def training_step(self, inputs: Inputs, target: np.ndarray) -> StepResult:
        """Forward and backward of one micro-batch.

        target float32 (batch, classes): smoothed labels over the effective batch size. Raises ArenaExhausted, and
        CheckError where the engine fails otherwise.
        """
        logits = np.empty((len(target), self.classes), np.float32)
        self._run("training", self._read(inputs) | {TARGET: target}, {LOGITS: logits})
        return StepResult(float(self._loss), logits, self._gradients)

    def logits(self, inputs: Inputs) -> np.ndarray:
        """float32 (batch, classes). Raises as training_step."""
        logits = np.empty((count_images(inputs, self.feature_shapes), self.classes), np.float32)
        self._run("inference", self._read(inputs), {LOGITS: logits})
        return logits

    def features(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """What the artifact's other programs read of image float32 (batch, 3, height, width), each float32 of its shape
        in the manifest with the first axis `batch` times as long. Raises as training_step."""
        shapes = self.feature_shapes.items()
        features = {name: np.empty((len(image) * first, *others), np.float32) for name, (first, *others) in shapes}
        self._run(FEATURES, {IMAGE: image}, features)
        return features

    def _read(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """What a program reads, by name."""
        if isinstance(inputs, dict):
            return inputs
        return self.features(inputs) if self.feature_shapes else {IMAGE: inputs}

    def _run(self, program: str, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None:
        results = self._results | {name: _share(array) for name, array in outputs.items()}
        values = self._inputs | {name: _share(array) for name, array in inputs.items()}
        try:
            for step in self._programs[program]:
                if self._stream:
                    self._stream.read(step.streamed)
                    values |= step.handles
                values |= _run_step(step, values, results)
                for name in step.done:
                    del values[name]
        except UserError:
            raise
        except Exception as error:  # the engine's own exception types differ between its versions
            values.clear()  # for the error keeps this frame, and with it the arena's memory
            if "allocat" in str(error).lower() or "memory" in str(error).lower():
                raise ArenaExhausted(
                    f"the engine needs more memory than was planned: {error}; give a larger --memory-budget"
                ) from error
            raise CheckError(
                f"onnxruntime {ENGINE_VERSION} fails in a graph of {self._where}: {error}; try edge-s2a check, or pack "
                "the model anew"
            ) from error


def count_images(inputs: Inputs, feature_shapes: dict[str, list[int]]) -> int:
    if not isinstance(inputs, dict):
        return len(inputs)
    name, (first, *_) = next(iter(feature_shapes.items()))
    return len(inputs[name]) // first


def part_of(inputs: Inputs, start: int, end: int, feature_shapes: dict[str, list[int]]) -> Inputs:
    """Of the images from `start` up to `end`."""
    if not isinstance(inputs, dict):
        return inputs[start:end]
    return {
        name: array[start * feature_shapes[name][0] : end * feature_shapes[name][0]] for name, array in inputs.items()
    }


def _run_step(step: Step, values: dict, results: dict) -> dict:
    """Runs one graph; returns its outputs, those of `results` being written where these lie.

    All values are those of the engine's own module: its public wrappers would take as long as a small model.
    """
    binding = _pybind_state.SessionIOBinding(step.session._sess)
    for local, name in step.inputs:
        binding.bind_ortvalue_input(local, values[name])
    for local, name in step.outputs:
        if name in results:
            binding.bind_ortvalue_output(local, results[name])
        else:
            binding.bind_output(local, CPU)  # in the arena
    step.session._sess.run_with_iobinding(binding, None)
    outputs = binding.get_outputs()
    return {name: _owned(outputs[index]) for index, (_, name) in enumerate(step.outputs)}


def _session(artifact: Artifact, member: str, threads: int, bounded: bool):
    """bounded: takes its buffers from the reserved arena."""
    options = onnxruntime.SessionOptions()
    # With these two, nodes run in the order of the file, which the host chose for memory.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    # Both trade memory for speed: the one keeps buffers over gaps, the other doubles the arena.
    options.enable_mem_reuse = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.use_env_allocators", "1" if bounded else "0")
    if _shared_threads:
        options.use_per_session_threads = False
    else:
        options.intra_op_num_threads = threads
        # Threads of its own would go on spinning while the next graph runs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 4  # errors reach the user as exceptions
    graph = artifact.read(member)
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=_providers)
    except Exception as error:
        raise UserError(
            f"onnxruntime {ENGINE_VERSION} refuses {member} of {artifact.path}: {error}; "
            "install onnxruntime 1.19 or newer, or pack the model anew"
        ) from error
    if session.get_providers()[0] != _providers[0]:  # the engine only warns where a provider cannot start
        raise UserError(
            f"onnxruntime {ENGINE_VERSION} could not start {_providers[0]} on this device; check its driver and "
            "libraries with nvidia-smi, or leave --provider away"
        )
    return session


def _share(array: np.ndarray):
    """The engine's handle of `array`, which stays where it is, and must outlive the handle."""
    return _pybind_state.OrtValue.ortvalue_from_numpy(array, CPU)


def _touched(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros whose pages are resident from the start, as the plan counts them."""
    array = np.empty(shape, np.float32)
    array.fill(0)
    return array


def _owned(value):
    """The output of a binding as a value that lives on its own: as the binding gives it, one output would keep all
    of them."""
    single = _pybind_state.OrtValueVector()
    single.push_back(value)
    return single[0]
