"""The engine on onnxruntime: the only file of the device that imports it.

Runs an artifact's programs call by call, each graph in the order in which the host wrote its nodes, with all buffers in
one arena of fixed size, and reads frozen weights where they lie in the mapped file, or from a small buffer.

Two things are one per process in onnxruntime, whatever engines there are: the pool of shared threads (ThreadPool), and
the arena that sessions take when they are created (Arena).
"""

import contextlib
import re
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from onnxruntime.capi import _pybind_state

from edge_s2a.artifact.adapter import check_shapes
from edge_s2a.artifact.archive import ADAPTER, CONSTANTS, PROGRAM, WEIGHTS, Artifact, graph_member
from edge_s2a.artifact.manifest import Manifest
from edge_s2a.artifact.names import IMAGE, LOGITS, LOSS, TARGET, gradient, tap
from edge_s2a.artifact.program import ALL, FEATURES, INFERENCE, TAPS, TRAINING, Program, from_json, last_readers
from edge_s2a.artifact.tensors import decode
from edge_s2a.device.engine.base import EngineSettings, Inputs, StepResult, Taps, count_images
from edge_s2a.device.engine.streaming import Placed, WeightStream, streamed_bytes
from edge_s2a.errors import ArenaExhausted, EngineError, UserError
from edge_s2a.sizes import format_size

VERSION = onnxruntime.__version__
CPU = onnxruntime.OrtDevice.make("cpu", 0)._get_c_device()
# By base.PROVIDERS. Each is tried before those after it, node by node; what none takes runs on the CPU.
EXECUTION_PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}

# -- out of memory -------------------------------------------------------------------------------------

# onnxruntime has neither a type nor a status code of its own for this: a run raises RuntimeError, the creation of a
# session RuntimeException, both as for any other failure. These are the messages, the same from 1.19 to 1.32, of an
# arena at its bound, of an arena that the system gives no more, of a plain allocation, and of a GPU's driver.
OUT_OF_MEMORY = re.compile(
    r"Available memory of \d+ is smaller than requested bytes of \d+"
    r"|Failed to allocate memory for requested buffer of size \d+"
    r"|Failed to find a free memory block despite calling Extend"
    r"|bad_alloc"
    r"|out of memory"
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether what onnxruntime raised says that an allocation failed."""
    if isinstance(error, MemoryError):
        return True
    is_the_engines = isinstance(error, (RuntimeError, _pybind_state.RuntimeException))
    return is_the_engines and OUT_OF_MEMORY.search(str(error)) is not None


def arena_exhausted(error: Exception) -> ArenaExhausted:
    return ArenaExhausted(f"the engine needs more memory than was planned: {error}; give a larger --memory-budget")


# -- what a process has one of -------------------------------------------------------------------------


class ThreadPool:
    """The threads that all sessions of this process share, or none where each session has its own.

    onnxruntime lets a process set the pool once. From then on it refuses sessions with threads of their own, and it
    does not tell whether there is a pool: this object, of which there is one, remembers.
    """

    def __init__(self) -> None:
        self.threads: int | None = None  # None: each session has its own

    def share(self, threads: int) -> int:
        """Makes all sessions created from now on share `threads` threads, and returns how many they have: the first
        call decides. onnxruntime 1.19 cannot share; there each session gets as many."""
        if self.threads is None and hasattr(onnxruntime, "set_global_thread_pool_sizes"):
            # Fails where the program that uses this library has set the pool already, for sessions of its own.
            with contextlib.suppress(_pybind_state.Fail):
                onnxruntime.set_global_thread_pool_sizes(threads, 1)
            self.threads = threads
        return self.threads or threads


THREAD_POOL = ThreadPool()


class Arena:
    """The arena that sessions get which are created from now on."""

    def __init__(self) -> None:
        self.bytes = 0  # of the last one that there was

    def reserve(self, arena_bytes: int) -> None:
        """Replaces the arena for sessions created from now on; older sessions keep theirs.

        Its one region is reserved at once and becomes resident as it is touched. An allocation beyond it fails. Up to
        onnxruntime 1.22 a process has one arena, the first, which all sessions share then; raises UserError if that is
        too small.
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
        try:
            onnxruntime.create_and_register_allocator(memory, configuration)
        except RuntimeError as error:
            if "already been registered" not in str(error):
                raise
            if arena_bytes > self.bytes:
                raise UserError(
                    f"onnxruntime {VERSION} has one arena in a process: there is one of "
                    f"{format_size(self.bytes)}, and {format_size(arena_bytes)} are needed; install "
                    "onnxruntime 1.23 or newer, or use a process for each"
                ) from error
        else:
            self.bytes = arena_bytes


ARENA = Arena()


# -- the engine ----------------------------------------------------------------------------------------


def execution_providers(provider: str) -> list[str]:
    """onnxruntime's names of what `provider`, one of base.PROVIDERS, stands for on this machine, in order of
    preference. Raises UserError if the installed onnxruntime lacks it."""
    wanted, available = EXECUTION_PROVIDERS[provider], onnxruntime.get_available_providers()
    if wanted[0] not in available:
        raise UserError(
            f"onnxruntime {VERSION} here has {', '.join(available)} and not {wanted[0]}; install the onnxruntime-gpu "
            "of your device (deploy/README.md), or omit --provider"
        )
    return [name for name in wanted if name in available]


class Step(NamedTuple):
    """One call of a program."""

    session: onnxruntime.InferenceSession
    inputs: list[tuple[str, str]]  # (name within the graph, value)
    outputs: list[tuple[str, str]]
    done: list[str]  # values that no later step reads
    streamed: list[Placed]  # weights to read into memory first
    handles: dict[str, Any]  # the engine's, of these


def agree(written: dict[str, Program], manifest: Manifest, programs: Collection[str]) -> bool:
    """Whether those of `programs` are written that the manifest tells of, and make all that is read of them."""
    results = results_of(manifest)
    return written.keys() == results.keys() & set(programs) and not any(
        results[name].difference(*(call.outputs for call in calls)) for name, calls in written.items()
    )


def results_of(manifest: Manifest) -> dict[str, set[str]]:
    """Each program of an artifact -> the results that are read of it."""
    taps = {TAPS: {tap(name) for name in manifest.taps}}
    if not manifest.can_train:
        return taps
    taps[TAPS].add(LOGITS)
    training = {LOSS, LOGITS, *(gradient(name) for name in manifest.adapter_shapes)}
    features = {FEATURES: set(manifest.features)} if manifest.features else {}
    return {TRAINING: training, INFERENCE: {LOGITS}} | features | taps


class OnnxRuntimeEngine:
    """The programs of an artifact on onnxruntime. See `edge_s2a.device.engine.base.Engine`."""

    name, version = "onnxruntime", VERSION

    def __init__(
        self,
        artifact: Artifact,
        settings: EngineSettings,
        programs: Collection[str] = ALL,
        stream_weights: bool = False,
        arena_bytes: int | None = None,
    ):
        """programs: those that will run, of artifact.program.ALL. stream_weights=True keeps in memory only those frozen
        weights that one call reads. arena_bytes bounds all buffers together; None gives each graph an unbounded arena
        of its own. Raises UserError if onnxruntime refuses a graph or the provider, ArenaExhausted if not even the
        constants fit the arena."""
        self.providers = execution_providers(settings.provider)
        self.classes = artifact.manifest.num_classes
        self.feature_shapes = artifact.manifest.features
        self.tap_widths = artifact.manifest.taps
        self._where = str(artifact.path)
        mapping = artifact.map(WEIGHTS)
        weights, _ = decode(mapping, f"{WEIGHTS} of {artifact.path}")
        self.weight_bytes = len(mapping)
        constants, _ = decode(artifact.read(CONSTANTS), f"{CONSTANTS} of {artifact.path}")
        initial, _ = decode(artifact.read(ADAPTER), f"{ADAPTER} of {artifact.path}")
        check_shapes(initial, artifact.manifest, f"{ADAPTER} of {artifact.path}")
        # The optimizer writes into these arrays, and the next run reads them there.
        self.adapter = {name: initial[name].copy() for name in artifact.manifest.adapter_shapes}
        lasting = constants | self.adapter if stream_weights else weights | constants | self.adapter
        self._arrays = lasting  # what the engine reads must stay where it is
        self._inputs = {name: _share(array) for name, array in lasting.items()}
        self._loss = _touched(())
        self._results = {LOSS: _share(self._loss)}
        if TRAINING in programs:
            self._gradients = {name: _touched(array.shape) for name, array in self.adapter.items()}
            self._results |= {gradient(name): _share(array) for name, array in self._gradients.items()}

        written = from_json(artifact.read(PROGRAM), artifact.graph_count, f"{PROGRAM} of {artifact.path}", programs)
        if not agree(written, artifact.manifest, programs):
            raise UserError(f"{self._where}: program and manifest disagree; repack the model")
        calls = [call for program in written.values() for call in program]
        self.streamed_weight_bytes = max(streamed_bytes(weights, call) for call in calls)
        self._stream = WeightStream(artifact, weights, mapping, calls) if stream_weights else None
        if bounded := arena_bytes is not None:
            ARENA.reserve(arena_bytes)
        sessions = {
            number: _session(artifact, graph_member(number), settings.threads, self.providers, bounded)
            for number in sorted({call.graph for call in calls})
        }
        always = {*self._inputs, *weights}
        self._programs = {name: self._steps(program, always, sessions) for name, program in written.items()}

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
                raise UserError(f"{self._where}: program and graphs disagree; repack the model")
            done = [name for name in set(call.inputs) if name not in always and readers[name] == index]
            done += [name for name in call.outputs if name not in readers]
            known.update(call.outputs)
            pairs = list(zip(inputs, call.inputs, strict=True)), list(zip(outputs, call.outputs, strict=True))
            streamed = self._stream.place(call) if self._stream else []
            handles = {weight.name: _share(weight.array) for weight in streamed}
            steps.append(Step(session, *pairs, done, streamed, handles))
        return steps

    def training_step(self, inputs: Inputs, target: np.ndarray) -> StepResult:
        logits = np.empty((len(target), self.classes), np.float32)
        self._run(TRAINING, self._read(inputs) | {TARGET: target}, {LOGITS: logits})
        return StepResult(float(self._loss), logits, self._gradients)

    def logits(self, inputs: Inputs) -> np.ndarray:
        logits = np.empty((count_images(inputs, self.feature_shapes), self.classes), np.float32)
        self._run(INFERENCE, self._read(inputs), {LOGITS: logits})
        return logits

    def taps(self, image: np.ndarray) -> Taps:
        count = len(image)
        logits = np.empty((count, self.classes), np.float32)
        statistics = {tap(name): np.empty((count, width), np.float32) for name, width in self.tap_widths.items()}
        self._run(TAPS, {IMAGE: image}, statistics | ({LOGITS: logits} if self.classes else {}))
        return Taps(logits, np.concatenate(list(statistics.values()), 1))

    def features(self, image: np.ndarray) -> dict[str, np.ndarray]:
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
        except Exception as error:  # pybind11 turns what C++ throws into many types
            values.clear()  # for the error keeps this frame, and with it the arena's memory
            if is_out_of_memory(error):
                raise arena_exhausted(error) from error
            raise EngineError(
                f"onnxruntime {VERSION} fails in a graph of {self._where}: {error}; try edge-s2a check, or repack the "
                "model"
            ) from error


def _run_step(step: Step, values: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """Runs one graph and returns its outputs; those of `results` are written where these lie.

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


def _session(
    artifact: Artifact, member: str, threads: int, providers: list[str], bounded: bool
) -> onnxruntime.InferenceSession:
    """bounded: takes its buffers from the reserved arena."""
    graph = artifact.read(member)
    try:
        session = onnxruntime.InferenceSession(graph, _session_options(threads, bounded), providers=providers)
    except Exception as error:
        if is_out_of_memory(error):
            raise arena_exhausted(error) from error
        raise UserError(
            f"onnxruntime {VERSION} refuses {member} of {artifact.path}: {error}; install onnxruntime 1.19 or newer, "
            "or repack the model"
        ) from error
    if session.get_providers()[0] != providers[0]:  # onnxruntime only warns where a provider cannot start
        raise UserError(
            f"onnxruntime {VERSION} could not start {providers[0]} on this device; check its driver and libraries with "
            "nvidia-smi, or omit --provider"
        )
    return session


def _session_options(threads: int, bounded: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    # With these two, nodes run in the order of the file, which the host chose for memory.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    # Both trade memory for speed: the one keeps buffers over gaps, the other doubles the arena.
    options.enable_mem_reuse = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.use_env_allocators", "1" if bounded else "0")
    if THREAD_POOL.threads is None:
        options.intra_op_num_threads = threads
        # Threads of its own would go on spinning while the next graph runs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
    else:
        options.use_per_session_threads = False
    options.log_severity_level = 4  # errors reach the user as exceptions
    return options


def _share(array: np.ndarray) -> Any:
    """The engine's handle of `array`, which stays where it is, and must outlive the handle."""
    return _pybind_state.OrtValue.ortvalue_from_numpy(array, CPU)


def _touched(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros whose pages are resident from the start, as the plan counts them."""
    array = np.empty(shape, np.float32)
    array.fill(0)
    return array


def _owned(value: Any) -> Any:
    """The output of a binding as a value that lives on its own: as the binding gives it, one output would keep all
    of them."""
    single = _pybind_state.OrtValueVector()
    single.push_back(value)
    return single[0]
