"""The engine: the only file that imports onnxruntime.

Runs an artifact's graphs in the order in which the host wrote their nodes, with all buffers in one arena
of fixed size, and reads frozen weights where they lie in the mapped file.
"""

from typing import NamedTuple

import numpy as np
import onnxruntime

from edge_s2a.artifact.archive import ADAPTER, INFERENCE_GRAPH, TRAINING_GRAPH, WEIGHTS, Artifact
from edge_s2a.artifact.names import IMAGE, LOGITS, LOSS, TARGET, gradient
from edge_s2a.artifact.tensors import decode
from edge_s2a.device.adapters import check_shapes
from edge_s2a.errors import ArenaExhausted, UserError

ENGINE_VERSION = onnxruntime.__version__


class StepResult(NamedTuple):
    loss: float
    logits: np.ndarray  # float32 (batch, classes), valid until the next run
    gradients: dict[str, np.ndarray]  # by adapter tensor, valid until the next run


def limit_arena(arena_bytes: int) -> None:
    """Makes every session created afterwards take its buffers from one region of `arena_bytes`.

    The region is reserved at once and becomes resident as it is touched. An allocation beyond it fails.
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


class Engine:
    """The sessions of an artifact, with the adapter's tensors as their live inputs."""

    def __init__(self, artifact: Artifact, threads: int, training: bool = True):
        """training=False leaves the training graph out. Raises UserError if the engine refuses a graph."""
        self.adapter_shapes = artifact.manifest.adapter_shapes
        self.classes = artifact.manifest.num_classes
        weights, _ = decode(artifact.map(WEIGHTS), f"{WEIGHTS} of {artifact.path}")
        self.weight_bytes = sum(array.nbytes for array in weights.values())
        self._weights = {name: _share(array) for name, array in weights.items()}
        initial, _ = decode(artifact.read(ADAPTER), f"{ADAPTER} of {artifact.path}")
        check_shapes(initial, artifact.manifest, f"{ADAPTER} of {artifact.path}")
        # The optimizer writes into these arrays, and the next run reads them there.
        self.adapter = {name: initial[name].copy() for name in self.adapter_shapes}
        self._adapter = {name: _share(array) for name, array in self.adapter.items()}
        self._inference = self._bind(_session(artifact, INFERENCE_GRAPH, threads))
        self._training = None
        if training:
            self._training = self._bind(_session(artifact, TRAINING_GRAPH, threads))
            self._gradients = {name: _touched(array.shape) for name, array in self.adapter.items()}
            self._loss = _touched(())
            for name, array in self._gradients.items():
                self._training[1].bind_ortvalue_output(gradient(name), _share(array))
            self._training[1].bind_ortvalue_output(LOSS, _share(self._loss))

    def _bind(self, session):
        binding = session.io_binding()
        shared = {**self._weights, **self._adapter}
        for entry in session.get_inputs():
            if entry.name not in (IMAGE, TARGET):
                binding.bind_ortvalue_input(entry.name, shared[entry.name])
        return session, binding

    def training_step(self, image: np.ndarray, target: np.ndarray) -> StepResult:
        """Forward and backward of one micro-batch.

        image float32 (batch, 3, height, width) normalised; target float32 (batch, classes): smoothed labels
        over the effective batch size. Raises ArenaExhausted.
        """
        logits = self._run(self._training, {IMAGE: image, TARGET: target})
        return StepResult(float(self._loss), logits, self._gradients)

    def logits(self, image: np.ndarray) -> np.ndarray:
        """float32 (batch, classes) for image float32 (batch, 3, height, width). Raises ArenaExhausted."""
        return self._run(self._inference, {IMAGE: image})

    def _run(self, bound, inputs: dict[str, np.ndarray]) -> np.ndarray:
        session, binding = bound
        logits = np.empty((len(inputs[IMAGE]), self.classes), np.float32)
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, _share(array))
        binding.bind_ortvalue_output(LOGITS, _share(logits))
        try:
            session.run_with_iobinding(binding)
        except Exception as error:  # the engine's own exception types differ between its versions
            if "allocat" in str(error).lower() or "memory" in str(error).lower():
                raise ArenaExhausted(
                    f"the engine needs more memory than was planned: {error}; give a larger --memory-budget"
                ) from error
            raise
        return logits


def _session(artifact: Artifact, member: str, threads: int):
    options = onnxruntime.SessionOptions()
    # With these two, nodes run in the order of the file, which the host chose for memory.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    # Both trade memory for speed: the one keeps buffers over gaps, the other doubles the arena.
    options.enable_mem_reuse = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors reach the user as exceptions
    graph = artifact.read(member)
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(
            f"onnxruntime {ENGINE_VERSION} refuses {member} of {artifact.path}: {error}; "
            "install onnxruntime 1.19 or newer, or pack the model anew"
        ) from error


def _share(array: np.ndarray) -> onnxruntime.OrtValue:
    """The engine's handle of `array`, which stays where it is."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _touched(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros whose pages are resident from the start, as the plan counts them."""
    array = np.empty(shape, np.float32)
    array.fill(0)
    return array
