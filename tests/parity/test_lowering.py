"""Each operator by itself: the device's graph against torch, values and gradients, at every batch size."""

import math
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.artifact.names import LOGITS, LOSS, gradient
from edge_s2a.errors import UserError
from edge_s2a.host.export.session import plain_session
from edge_s2a.host.golden import golden_step
from edge_s2a.host.pack import Adapted, to_graph
from edge_s2a.host.targets.onnxruntime.emit import to_onnx
from edge_s2a.host.trace.capture import capture_training, loss_and_gradients, observe_saved_tensors, soft_cross_entropy
from edge_s2a.host.trace.saved_tensors import with_bits
from edge_s2a.host.weights import freeze, named_constants

IMAGE_SHAPE = (3, 8, 12)
CHANNELS = 8
BATCHES = (1, 2, 5)


def heads(x):
    """(batch, 8, 8, 12) -> (batch, 2 heads, 96 tokens, 4)."""
    return x.flatten(2).transpose(1, 2).unflatten(2, (2, 4)).transpose(1, 2)


def for_each(x, constant):
    """`constant` for each image."""
    return constant.expand(x.shape[0], *constant.shape)


def windows(x):
    """Swin's: 4 x 4 windows as a batch of their own."""
    x = x.permute(0, 2, 3, 1).reshape(-1, 2, 4, 3, 4, CHANNELS)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, CHANNELS)


def matrix(rows, columns):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows + columns)) / math.sqrt(rows)


TOKENS = 8 * 12
WEIGHT, BIAS = torch.linspace(0.5, 1.5, CHANNELS), torch.linspace(-1, 1, CHANNELS)
KERNELS = matrix(6, CHANNELS * 9).view(6, CHANNELS, 3, 3)
# Finds its place again by comparing the saved input with the maximum, which rounding makes impossible.
MAXIMUM = "maximum over an axis"
OPERATORS = {
    "gelu": functional.gelu,
    "gelu tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "relu": functional.relu,
    "relu6": lambda x: functional.relu6(3 * x),
    "leaky relu": lambda x: functional.leaky_relu(x, 0.1),
    "hard swish": lambda x: functional.hardswish(3 * x),
    "hard sigmoid": lambda x: functional.hardsigmoid(3 * x),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softmax": lambda x: torch.softmax(x, 1),
    "exp, log and powers": lambda x: torch.log(torch.exp(x) + x**2 + 1) * torch.rsqrt(1 + x.abs()),
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "where": lambda x: torch.where(x > 0.1, x, 0.3 * x),
    "maximum": lambda x: torch.maximum(x, x.flip(1)),
    "l2 normalisation": lambda x: functional.normalize(x, dim=1),
    "layer norm": lambda x: functional.layer_norm(x.transpose(1, 3), (CHANNELS,), WEIGHT),
    "group norm": lambda x: functional.group_norm(x, 4, WEIGHT, BIAS),
    "rms norm": lambda x: functional.rms_norm(x.transpose(1, 3), (CHANNELS,)),
    "batch norm": lambda x: functional.batch_norm(x, BIAS, WEIGHT),
    "mean and variance": lambda x: x.mean((2, 3)) + x.var(1, unbiased=False).flatten(1).sum(1, keepdim=True),
    "sum over an axis": lambda x: x.sum(2),
    "cumulative sum": lambda x: x.cumsum(2),
    MAXIMUM: lambda x: x.amax(2),
    "max pool": lambda x: functional.max_pool2d(x, 3, 2, 1),
    "max pool, rounded up": lambda x: functional.max_pool2d(x, 3, 2, ceil_mode=True),
    "average pool": lambda x: functional.avg_pool2d(x, 2),
    "average pool, padded": lambda x: functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "adaptive pool to 1": lambda x: functional.adaptive_avg_pool2d(x, 1),
    "adaptive pool, uneven": lambda x: functional.adaptive_avg_pool2d(x, (3, 5)),
    "nearest": lambda x: functional.interpolate(x, scale_factor=2, mode="nearest"),
    "bilinear": lambda x: functional.interpolate(x, size=(5, 7), mode="bilinear", align_corners=False),
    "pointwise convolution": lambda x: functional.conv2d(x, matrix(16, CHANNELS)[:, :, None, None]),
    "convolution": lambda x: functional.conv2d(x, KERNELS, torch.ones(6), 2, 1),
    "depthwise convolution": lambda x: functional.conv2d(x, matrix(8, 9).view(8, 1, 3, 3), None, 1, 1, 1, 8),
    "grouped, dilated convolution": lambda x: functional.conv2d(x, matrix(6, 36).view(6, 4, 3, 3), None, 1, 2, 2, 2),
    "unevenly padded convolution": lambda x: functional.conv2d(functional.pad(x, (0, 1, 0, 1)), KERNELS, None, 2),
    "linear": lambda x: functional.linear(x.flatten(2), matrix(10, TOKENS), torch.ones(10)),
    "products of activations": lambda x: (heads(x).transpose(2, 3) @ heads(x)).softmax(-1),
    "a product that no image changes": lambda x: x.flatten(2) @ for_each(x, matrix(TOKENS, 4)),
    "einsum": lambda x: torch.einsum("bchw,bcwk->bhk", x, x.transpose(2, 3)),
    "attention": lambda x: functional.scaled_dot_product_attention(heads(x), 2 * heads(x), heads(x) - 1),
    "masked attention": lambda x: functional.scaled_dot_product_attention(
        heads(x), heads(x), heads(x), attn_mask=matrix(TOKENS, TOKENS), scale=0.3
    ),
    "windows": lambda x: functional.gelu(windows(x)).view(-1, 6 * 16 * CHANNELS),
    "roll": lambda x: torch.roll(x, (-1, 2), (2, 3)),
    "pad": lambda x: functional.pad(x, (1, 2, 0, 1)),
    "slices": lambda x: torch.cat([x[:, ::2, 1:], x[:, 1::2, :-1]], 2),
    "split and stack": lambda x: torch.stack([part * n for n, part in enumerate(x.chunk(4, 1), 1)], 1),
    "gather by index": lambda x: x[:, torch.tensor([3, 0, 0, 7])],
    "a class token": lambda x: torch.cat([for_each(x, matrix(8, 2)), x.flatten(2)], 2),
    "pixel shuffle": lambda x: functional.pixel_unshuffle(functional.pixel_shuffle(x, 2), 4),
}  # fmt: skip
# float32 sums in another order.
TOLERANCE = 1e-5
# A value that lies between two codes may take either, and moves the gradient by a step of its own.
TOLERANCE_4_BITS = 5e-3
# The code of a GELU's derivative is that of a difference between neighbours, 64 times as coarse: now and then one of
# the thousand values here takes the other code.
TOLERANCE_OF_DIFFERENCES = 1.5e-2


class Operator(nn.Module):
    """`operator` between a trainable shift of every value of its input and a frozen linear head."""

    def __init__(self, operator):
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.shift = nn.Parameter(torch.zeros(CHANNELS, *IMAGE_SHAPE[1:]))
        self.operator = operator
        self.head = nn.LazyLinear(3)

    def forward(self, image):
        return self.head(self.operator(self.stem(image) + self.shift).flatten(1))


def adapt(operator):
    torch.manual_seed(0)
    model = Operator(operator)
    model(torch.zeros(1, *IMAGE_SHAPE))
    nn.init.normal_(model.shift, generator=torch.Generator().manual_seed(0))
    frozen = freeze(named_constants(model, {"shift"}), "fp32")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == "shift")
    adapter = {"shift": model.shift}
    return Adapted(model, None, adapter, [], frozen, observe_saved_tensors(model, adapter, IMAGE_SHAPE))


def engine_of(adapted):
    """A function of image and target: (loss, logits, gradient of the shift)."""
    outputs = [LOSS, LOGITS, gradient("shift")]
    captured = capture_training(adapted.model, adapted.adapter, IMAGE_SHAPE, 3, adapted.scheme)
    graph = to_graph("training", captured, adapted, ["shift", "image", "target"], outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = plain_session(to_onnx(graph), options)
    constant = {**adapted.frozen.arrays, "shift": adapted.adapter["shift"].detach().numpy()}

    def step(image, target):
        values = {**constant, "image": image.numpy(), "target": target.numpy()}
        return session.run(outputs, {entry.name: values[entry.name] for entry in session.get_inputs()})

    return step


@pytest.mark.parametrize(
    ("operator", "bits"), [(name, bits) for name in OPERATORS for bits in (32, 4) if (name, bits) != (MAXIMUM, 4)]
)
def test_gradient(operator, bits):
    """At 32 bits against torch's own operators, at 4 bits against the same scheme run eagerly."""
    adapted = adapt(OPERATORS[operator])
    adapted = replace(adapted, scheme=with_bits(adapted.scheme, bits))
    step = engine_of(adapted)
    for batch in BATCHES:
        generator = torch.Generator().manual_seed(batch)
        image = torch.randn(batch, *IMAGE_SHAPE, generator=generator)
        target = torch.softmax(torch.randn(batch, 3, generator=generator), -1)
        if bits == 32:
            logits = functional_call(adapted.model, adapted.adapter, (image,))
            loss = soft_cross_entropy(logits, target)
            (expected,) = torch.autograd.grad(loss, [adapted.adapter["shift"]])
        else:
            loss, logits, expected = loss_and_gradients(adapted.model, adapted.adapter, image, target, adapted.scheme)
        measured_loss, measured_logits, measured = step(image, target)
        np.testing.assert_allclose(measured_loss, loss.item(), rtol=1e-5)
        np.testing.assert_allclose(measured_logits, logits.detach().numpy(), rtol=1e-4, atol=1e-5)
        coded = TOLERANCE_OF_DIFFERENCES if operator in ("gelu", "gelu tanh", "windows") else TOLERANCE_4_BITS
        tolerance = TOLERANCE if bits == 32 else coded
        assert np.linalg.norm(measured - expected.numpy()) <= tolerance * expected.norm()


@pytest.mark.parametrize(
    ("operator", "complaint"),
    [
        (lambda x: functional.unfold(x, 3), "im2col"),
        (lambda x: functional.conv_transpose2d(x, matrix(CHANNELS, 3)[:, :, None, None]), "transposed convolution"),
        (lambda x: x * len(x), "batch size as a fixed number"),
    ],
)
def test_what_cannot_be_lowered_is_named(operator, complaint):
    with pytest.raises(UserError, match=complaint):
        engine_of(adapt(operator))


def test_a_gradient_that_is_not_finite_is_refused():
    adapted = adapt(OPERATORS[MAXIMUM])
    preprocessing = Preprocessing(IMAGE_SHAPE[1:], IMAGE_SHAPE[1:], "center", "bilinear", (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(UserError, match="not finite"):
        golden_step(adapted.model, adapted.adapter, preprocessing, 3, with_bits(adapted.scheme, 4), 0)
