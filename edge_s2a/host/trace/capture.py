"""Records the joint forward-and-backward computation of an adapted model, from autograd itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import SymInt, Tensor, nn
from torch._decomp import get_decompositions
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from edge_s2a.errors import UserError
from edge_s2a.host.trace.saved_tensors import Keep, Mark, Restore, SavedTensor, describe, keep_by
from edge_s2a.host.trace.substitute import saved_tensors

aten = torch.ops.aten

# Any batch but 0 and 1, which torch would take as constants.
EXAMPLE_BATCH = 2
# Operators that torch itself writes in terms of others, which have lowerings.
COMPOSITE = (aten.channel_shuffle, aten.pixel_shuffle, aten.pixel_unshuffle)


@dataclass
class Captured:
    """A traced computation with a symbolic batch size and the tensors it reads by reference."""

    graph: torch.fx.Graph
    constants: dict[str, Tensor]  # by the target of the graph's get_attr nodes


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-sum(target * log_softmax(logits)); logits and target (batch, classes), result ().

    The target carries smoothing and the division by the effective batch size, so that losses and
    gradients of micro-batches of any size add up to those of the whole batch.
    """
    return -(torch.log_softmax(logits, dim=-1) * target).sum()


def loss_and_gradients(
    model: nn.Module, adapter: dict[str, Tensor], image: Tensor, target: Tensor, scheme: list[SavedTensor]
) -> tuple[Tensor, ...]:
    """(loss (), logits (batch, classes), one gradient for each adapter tensor): one training step.

    image float32 (batch, 3, height, width), target float32 (batch, classes); `scheme` says how the saved
    tensors are kept. Run eagerly, this is the reference for the device; traced, it becomes the training graph.
    """
    logits = forward(model, adapter, image, keep_by(scheme))
    loss = soft_cross_entropy(logits, target)
    return loss, logits, *torch.autograd.grad(loss, list(adapter.values()))


def forward(model: nn.Module, adapter: dict[str, Tensor], image: Tensor, keep: Keep) -> Tensor:
    """Logits (batch, classes); `keep` is given each float activation that is saved for the backward pass."""
    constants = [*model.parameters(), *model.buffers()]
    if isinstance(image, FakeTensor):
        constants += [image.fake_mode.from_tensor(tensor, static_shapes=True) for tensor in constants]
    constants += adapter.values()
    with saved_tensors(keep, constants):
        return functional_call(model, adapter, (image,))


def observe_saved_tensors(
    model: nn.Module, adapter: dict[str, Tensor], image_shape: tuple[int, ...]
) -> list[SavedTensor]:
    """The tensors that a forward pass saves for the backward pass, in order, every entry kept exactly."""
    names = list(adapter)
    scheme: list[SavedTensor] = []

    def keep(index: int, description: Mark, tensor: Tensor) -> Restore:
        scheme.append(describe(index, description, tensor))
        return lambda: tensor

    def step(*inputs: Tensor) -> tuple[Tensor, ...]:
        *values, image = inputs
        return (forward(model, dict(zip(names, values, strict=True)), image, keep),)

    _trace(step, _fake_inputs(adapter, [image_shape]))
    return scheme


def capture_training(
    model: nn.Module,
    adapter: dict[str, Tensor],
    image_shape: tuple[int, ...],
    classes: int,
    scheme: list[SavedTensor],
) -> Captured:
    """Inputs of the graph: the adapter tensors, image, target. Outputs: see `loss_and_gradients`."""
    names = list(adapter)

    def step(*inputs: Tensor) -> tuple[Tensor, ...]:
        *values, image, target = inputs
        return loss_and_gradients(model, dict(zip(names, values, strict=True)), image, target, scheme)

    return _trace(step, _fake_inputs(adapter, [image_shape, (classes,)]))


def capture_inference(model: nn.Module, adapter: dict[str, Tensor], image_shape: tuple[int, ...]) -> Captured:
    """Inputs of the graph: the adapter tensors, image. Output: logits (batch, classes)."""
    return capture_forward(adapter, image_shape, lambda values, image: (infer(model, values, image),))


def capture_forward(
    adapter: dict[str, Tensor],
    image_shape: tuple[int, ...],
    compute: Callable[[dict[str, Tensor], Tensor], tuple[Tensor, ...]],
) -> Captured:
    """Inputs of the graph: the adapter tensors, image. Outputs: those of `compute`, which gets both."""

    def function(*inputs: Tensor) -> tuple[Tensor, ...]:
        *values, image = inputs
        return compute(dict(zip(adapter, values, strict=True)), image)

    return _trace(function, _fake_inputs(adapter, [image_shape]))


def infer(model: nn.Module, adapter: dict[str, Tensor], image: Tensor) -> Tensor:
    """Logits (batch, classes) of images float32 (batch, 3, height, width), without gradients."""
    # Nothing is saved without gradients: the substitutes serve as plain operators.
    with torch.no_grad():
        return forward(model, adapter, image, keep_by([]))


def _fake_inputs(adapter: dict[str, Tensor], batched_shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """Tensors without data: the adapter's, then one of each shape with a symbolic batch size."""
    # duck_shape=False: a batch as large as some constant dimension must not be taken for it.
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv(duck_shape=False), static_shapes=False)

    def fake(example: Tensor, dynamic: bool) -> Tensor:
        sizes = [DimDynamic.STATIC] * example.ndim
        if dynamic:
            sizes[0] = DimDynamic.DYNAMIC
        return mode.from_tensor(
            example, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes), static_shapes=False
        )

    inputs = [fake(value.detach(), dynamic=False).requires_grad_() for value in adapter.values()]
    first, *others = batched_shapes
    inputs.append(fake(torch.zeros(EXAMPLE_BATCH, *first), dynamic=True))
    with mode:
        inputs += [torch.empty(inputs[-1].shape[0], *shape) for shape in others]
    return inputs


def _trace(function: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor]) -> Captured:
    # torch annotates sizes as int, which a symbolic one is not.
    sizes: list[Any] = [size for value in inputs for size in value.shape]
    batch: SymInt = next(size for size in sizes if isinstance(size, SymInt))
    decompositions: dict[Any, Callable[..., Any]] = {**get_decompositions(COMPOSITE)}
    trace = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True, decomposition_table=decompositions)
    # Without the dispatcher some operators (padding) take the example's batch size for a constant.
    with enable_python_dispatcher():
        traced = trace(*inputs)
    if isinstance(batch.node.maybe_as_int(), int):
        raise UserError("the model's code computes with the batch size as a fixed number; choose another model")
    constants = {node.target: getattr(traced, node.target) for node in traced.graph.nodes if node.op == "get_attr"}
    return Captured(traced.graph, constants)
