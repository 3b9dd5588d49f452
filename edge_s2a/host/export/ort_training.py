"""Format `ort-training`: the training graph, with its saved tensors in few bits, for the API of onnxruntime-training
1.19.2, and so for programs in C++, Java and C# (`CheckpointState`, `Module`, `Optimizer`).

The content of such a folder is specified only by onnxruntime's own `generate_artifacts` and its schema of checkpoints,
`ort_training_checkpoint.fbs`. The batch's loss is the mean cross-entropy of its labels; memory is planned by that
engine, so there is no budget.
"""

from collections.abc import Sequence
from pathlib import Path

import flatbuffers
import numpy as np
from numpy.typing import DTypeLike
from onnx import TensorProto, ValueInfoProto, helper

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.files import make_folder, write_bytes
from edge_s2a.artifact.names import IMAGE, LOGITS, LOSS, TARGET, gradient
from edge_s2a.host.export.unroll import Unrolled, image_input, model_bytes, unroll
from edge_s2a.host.targets.onnxruntime.rules import IR_VERSION

LABELS = "labels"  # int64 (batch,), numbers of the classes
RESET = "lazy_reset_grad"
BETAS, EPSILON, WEIGHT_DECAY = (0.9, 0.999), 1e-6, 0.01  # as edge_s2a.device.optim.optimizer
IDENTIFIER, VERSION = b"ODTC", 2


def export_ort_training(artifact: Artifact, adapter: dict[str, np.ndarray], output: Path) -> dict[str, np.ndarray]:
    """Writes training_model.onnx, eval_model.onnx, optimizer_model.onnx and checkpoint into the folder `output`. Both
    models read image and labels and return loss and logits; the first also accumulates gradients. Returns the
    parameters that the checkpoint holds."""
    make_folder(output)
    classes = artifact.manifest.num_classes
    training, inference = unroll(artifact, "training"), unroll(artifact, "inference")
    constants, weights = training.constants | inference.constants, training.frozen | inference.frozen
    frozen = {name: array for name, array in constants.items() if name in weights}
    write_bytes(output / "training_model.onnx", training_model(artifact, training, adapter, frozen, classes))
    write_bytes(output / "eval_model.onnx", eval_model(artifact, inference, adapter, frozen, classes))
    write_bytes(output / "optimizer_model.onnx", optimizer_model())
    write_bytes(output / "checkpoint", checkpoint(adapter, frozen))
    return adapter | frozen


def training_model(
    artifact: Artifact, graph: Unrolled, adapter: dict[str, np.ndarray], frozen: dict[str, np.ndarray], classes: int
) -> bytes:
    nodes = [*target_of_labels(classes), *graph.nodes]
    inputs = user_inputs(artifact) | parameter_inputs(adapter | frozen)
    outputs = {LOSS: graph.values[LOSS], LOGITS: graph.values[LOGITS]}
    for name in adapter:
        stem = f"{name}_grad.accumulation"
        shape = graph.values[gradient(name)].type.tensor_type.shape
        inputs[f"{stem}.buffer"] = tensor(f"{stem}.buffer", np.float32, [size.dim_value for size in shape.dim])
        outputs[f"{stem}.out"] = tensor(f"{stem}.out", np.bool_, [1])
        nodes.append(
            helper.make_node(
                "InPlaceAccumulatorV2", [f"{stem}.buffer", gradient(name), RESET], [f"{stem}.out"],
                name=f"{stem}.node", domain="com.microsoft",
            )
        )  # fmt: skip
    inputs[RESET] = tensor(RESET, np.bool_, [1])
    return model_bytes(nodes, inputs, outputs, small_constants(graph) | target_constants(classes))


def eval_model(
    artifact: Artifact, graph: Unrolled, adapter: dict[str, np.ndarray], frozen: dict[str, np.ndarray], classes: int
) -> bytes:
    """The same inputs; loss and logits."""
    nodes = [
        *target_of_labels(classes),
        *graph.nodes,
        helper.make_node("LogSoftmax", [LOGITS], ["log_probabilities"], axis=-1),
        helper.make_node("Mul", ["log_probabilities", TARGET], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted"], ["negative_loss"], keepdims=0),
        helper.make_node("Neg", ["negative_loss"], [LOSS]),
    ]
    outputs = {LOSS: tensor(LOSS, np.float32, []), LOGITS: graph.values[LOGITS]}
    inputs = user_inputs(artifact) | parameter_inputs(adapter | frozen)
    return model_bytes(nodes, inputs, outputs, small_constants(graph) | target_constants(classes))


def target_of_labels(classes: int) -> list:
    """TARGET float32 (batch, classes) from LABELS: of each image 1 / batch at its class."""
    return [
        helper.make_node("OneHot", [LABELS, "depth", "off_and_on"], ["one_hot"], axis=-1),
        helper.make_node("Shape", [LABELS], ["label_count"]),
        helper.make_node("Cast", ["label_count"], ["images"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["one_hot", "images"], [TARGET]),
    ]


def target_constants(classes: int) -> dict[str, np.ndarray]:
    return {"depth": np.array([classes], np.int64), "off_and_on": np.array([0, 1], np.float32)}


def small_constants(graph: Unrolled) -> dict[str, np.ndarray]:
    """Weights are inputs."""
    return {name: array for name, array in graph.constants.items() if name not in graph.frozen}


def user_inputs(artifact: Artifact) -> dict[str, ValueInfoProto]:
    return {IMAGE: image_input(artifact), LABELS: tensor(LABELS, np.int64, ["batch"])}


def parameter_inputs(parameters: dict[str, np.ndarray]) -> dict[str, ValueInfoProto]:
    return {name: tensor(name, array.dtype, array.shape) for name, array in parameters.items()}


def tensor(name: str, dtype: DTypeLike, shape: Sequence[int | str]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [*shape])


def optimizer_model() -> bytes:
    """AdamW of all trained tensors in one operator."""
    single = {
        "learning_rate": tensor("learning_rate", np.float32, [1]),
        "step": tensor("step", np.int64, [1]),
    }
    names = ("params", "gradients", "first_order_moments", "second_order_moments")
    sequences = {name: helper.make_tensor_sequence_value_info(name, TensorProto.FLOAT, None) for name in names}
    node = helper.make_node(
        "AdamWOptimizer", [*single, *names], ["updated_flag"], name="adamw", domain="com.microsoft",
        alpha=BETAS[0], beta=BETAS[1], epsilon=EPSILON, weight_decay=WEIGHT_DECAY, adam_mode=1, correct_bias=1,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "adamw", [*single.values(), *sequences.values()], [tensor("updated_flag", np.bool_, [1])]
    )
    opsets = [helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("", 13)]
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="edge-s2a"
    ).SerializeToString()


# -- the checkpoint ------------------------------------------------------------------------------------


def checkpoint(trained: dict[str, np.ndarray], frozen: dict[str, np.ndarray]) -> bytes:
    """A Checkpoint table with a ModuleState of both kinds of parameters, as a flatbuffer."""
    builder = flatbuffers.Builder(sum(array.nbytes for array in (trained | frozen).values()) + (1 << 20))
    vectors = [tensor_vector(builder, arrays) for arrays in (trained, frozen)]
    builder.StartObject(4)  # ModuleState: requires_grad_params, frozen_params, is_nominal_state, has_external_data
    for slot, vector in enumerate(vectors):
        builder.PrependUOffsetTRelativeSlot(slot, vector, 0)
    module_state = builder.EndObject()
    builder.StartObject(4)  # Checkpoint: version, module_state, optimizer_groups, property_bag
    builder.PrependInt32Slot(0, VERSION, 0)
    builder.PrependUOffsetTRelativeSlot(1, module_state, 0)
    builder.Finish(builder.EndObject(), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def tensor_vector(builder: flatbuffers.Builder, arrays: dict[str, np.ndarray]) -> int:
    offsets = [flat_tensor(builder, name, array) for name, array in arrays.items()]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def flat_tensor(builder: flatbuffers.Builder, name: str, array: np.ndarray) -> int:
    """Tensor: name, doc_string, dims, data_type, raw_data, string_data, external_data_offset."""
    label = builder.CreateString(name)
    dims = builder.CreateNumpyVector(np.array(array.shape, np.int64))
    raw = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    builder.StartVector(1, len(raw), 8)  # as aligned as the largest element that it may hold
    builder.head -= len(raw)
    builder.Bytes[builder.head : builder.head + len(raw)] = raw.tobytes()
    data = builder.EndVector()
    builder.StartObject(7)
    builder.PrependUOffsetTRelativeSlot(0, label, 0)
    builder.PrependUOffsetTRelativeSlot(2, dims, 0)
    builder.PrependInt32Slot(3, helper.np_dtype_to_tensor_dtype(array.dtype), 0)
    builder.PrependUOffsetTRelativeSlot(4, data, 0)
    return builder.EndObject()
