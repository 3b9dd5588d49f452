"""Records the joint forward-and-backward computation of an adapted model, from autograd itself."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from edge_s2a.host.quantize.substitute import SavedBits

# Any batch but 0 and 1, which torch would take for constants.
EXAMPLE_BATCH = 2


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
    model: nn.Module, adapter: dict[str, Tensor], image: Tensor, target: Tensor, bits: int
) -> tuple[Tensor, ...]:
    """(loss (), logits (batch, classes), one gradient for each adapter tensor): one training step.

    image float32 (batch, 3, height, width), target float32 (batch, classes). Run eagerly this is the
    reference for the device; traced it becomes the training graph.
    """
    with SavedBits(bits):
        logits = functional_call(model, adapter, (image,))
    loss = soft_cross_entropy(logits, target)
    return loss, logits, *torch.autograd.grad(loss, list(adapter.values()))


def capture_training(
    model: nn.Module, adapter: dict[str, Tensor], image_shape: tuple[int, ...], classes: int, bits: int
) -> Captured:
    """Inputs of the graph: the adapter tensors, image, target. Outputs: see `loss_and_gradients`."""
    names = list(adapter)

    def step(*inputs: Tensor) -> tuple[Tensor, ...]:
        *values, image, target = inputs
        named = dict(zip(names, values, strict=True))
        return loss_and_gradients(model, named, image, target, bits)

    return _trace(model, step, adapter, [image_shape, (classes,)])


def capture_inference(model: nn.Module, adapter: dict[str, Tensor], image_shape: tuple[int, ...]) -> Captured:
    """Inputs of the graph: the adapter tensors, image. Output: logits (batch, classes)."""
    names = list(adapter)

    def forward(*inputs: Tensor) -> tuple[Tensor, ...]:
        *values, image = inputs
        # Nothing is saved without gradients: the substitutes serve as plain operators.
        with torch.no_grad(), SavedBits(32):
            named = dict(zip(names, values, strict=True))
            return (functional_call(model, named, (image,)),)

    return _trace(model, forward, adapter, [image_shape])


def _trace(model, function, adapter, batched_shapes) -> Captured:
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
    traced = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    constants = {node.target: getattr(traced, node.target) for node in traced.graph.nodes if node.op == "get_attr"}
    return Captured(traced.graph, constants)
