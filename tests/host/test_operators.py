"""Each substituted operator: exact forward; exact backward at 32 bits; a bounded one at 4 bits."""

import pytest
import torch
from torch.nn import functional

from edge_s2a.codec.reference import group_size
from edge_s2a.errors import UserError
from edge_s2a.host.trace import codes
from edge_s2a.host.trace.saved_tensors import Mark, as_rows, describe, encode, with_bits
from edge_s2a.host.trace.substitute import saved_tensors

# float32 arithmetic in another order than torch's own kernels.
EXACT = {"rtol": 2e-5, "atol": 2e-6}
# Relative error (Euclidean) of the input gradient. Half a step of 15 over the range of random values is
# 0.02 to 0.05 of their norm; attention passes it through an exponential, 0.16 to 0.18.
BOUND_4_BITS = 0.2


MASK = torch.randn(10, 10, generator=torch.Generator().manual_seed(2)).round()


def gelu(x):
    return functional.gelu(x)


def gelu_tanh(x):
    return functional.gelu(x, approximate="tanh")


def silu(x):
    return functional.silu(x)


def layer_norm(x):
    return functional.layer_norm(x, x.shape[-1:], torch.linspace(0.5, 1.5, 48), torch.linspace(-1, 1, 48), 1e-6)


def rms_norm(x):
    return functional.rms_norm(x, x.shape[-1:], torch.linspace(0.5, 1.5, 48), 1e-6)


def attention(x):
    q, k, v = x.view(2, 10, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
    return functional.scaled_dot_product_attention(q, k, v)


def masked_attention(x):
    q, k, v = x.view(2, 10, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=MASK, scale=0.3)


def relu(x):
    return functional.relu(x)


def relu6(x):
    return functional.relu6(x * 4)


def leaky_relu(x):
    return functional.leaky_relu(x, 0.1)


def sigmoid(x):
    return x.sigmoid()


def tanh(x):
    return torch.tanh(x)


def hard_swish(x):
    return functional.hardswish(x * 3)


def hard_sigmoid(x):
    return functional.hardsigmoid(x * 3)


def as_map(x):
    return x.reshape(2, 6, 10, 8)


def group_norm(x):
    return functional.group_norm(as_map(x), 3, torch.linspace(0.5, 1.5, 6), torch.linspace(-1, 1, 6))


def batch_norm(x):
    mean, variance = torch.linspace(-1, 1, 6), torch.linspace(0.5, 2, 6)
    return functional.batch_norm(as_map(x), mean, variance, torch.linspace(0.5, 1.5, 6), torch.linspace(-1, 1, 6))


def max_pool(x):
    return functional.max_pool2d(as_map(x), 3, 2, 1)


def max_pool_of_equal_values(x):
    return functional.max_pool2d(functional.relu(as_map(x) - 1), 2)


def max_pool_ceil(x):
    return functional.max_pool2d(as_map(x), 3, 2, ceil_mode=True)


def avg_pool(x):
    return functional.avg_pool2d(as_map(x), 3, 2, 1)


def avg_pool_without_padding_counted(x):
    return functional.avg_pool2d(as_map(x), 2, 2, ceil_mode=True, count_include_pad=False)


def adaptive_avg_pool(x):
    return functional.adaptive_avg_pool2d(as_map(x), (3, 4))  # uneven over rows, even over columns


def frozen_convolution(x):
    weight = torch.randn(6, 6, 3, 3, generator=torch.Generator().manual_seed(1))
    return functional.conv2d(as_map(x), weight, None, 2, 1)


def softmax_product(x):
    return torch.softmax(x @ x.transpose(1, 2), -1) @ x


def gated(x):
    return x * torch.sigmoid(x.mean(1, keepdim=True))


OPERATORS = [
    gelu, gelu_tanh, silu, relu, relu6, leaky_relu, sigmoid, tanh, hard_swish, hard_sigmoid, layer_norm, rms_norm,
    group_norm, batch_norm, attention, masked_attention, max_pool, max_pool_of_equal_values, max_pool_ceil, avg_pool,
    avg_pool_without_padding_counted, adaptive_avg_pool, frozen_convolution, softmax_product, gated,
]  # fmt: skip
# Piecewise linear or linear, or a choice: the derivative is kept exactly, or not at all.
EXACT_AT_4_BITS = {
    relu, relu6, leaky_relu, hard_sigmoid, batch_norm, max_pool, max_pool_of_equal_values, max_pool_ceil, avg_pool,
    avg_pool_without_padding_counted, adaptive_avg_pool, frozen_convolution,
}  # fmt: skip
# Bits a value of the operator's input for what it saves at 4 bits: codes, and 32 bits for a group of 8 to 32.
BITS_A_VALUE = {
    **dict.fromkeys([relu, relu6, leaky_relu, hard_sigmoid], 1),
    **dict.fromkeys([batch_norm, avg_pool, avg_pool_without_padding_counted, adaptive_avg_pool, frozen_convolution], 0),
    **dict.fromkeys([max_pool, max_pool_of_equal_values, max_pool_ceil], 2),
    **dict.fromkeys([attention, masked_attention], 8),
    softmax_product: 18,  # both factors and the 10 x 10 products of each image, by groups of 10
}


def coded(index, description, tensor):
    """Keeps every activation at 4 bits. Constants, which do not grow with the batch, are smaller here."""
    if tensor.numel() < 200 and description.coding == "groups":
        return exactly(index, description, tensor)
    entry = describe(index, description, tensor)._replace(coding=description.coding)
    return encode(with_bits([entry], 4)[0], tensor)


def exactly(_index, _description, tensor):
    return lambda: tensor


def run(operator, keep):
    x = (torch.randn(2, 10, 48, generator=torch.Generator().manual_seed(0)) * 1.5 + 0.2).requires_grad_()
    if keep is None:
        y = operator(x)
    else:
        with saved_tensors(keep, []):
            y = operator(x)
    (gradient,) = torch.autograd.grad((y * torch.sin(torch.arange(y.numel()) * 1.0).view(y.shape)).sum(), x)
    return y.detach(), gradient


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("keep", [coded, exactly])
def test_forward_is_exact(operator, keep):
    torch.testing.assert_close(run(operator, keep)[0], run(operator, None)[0], **EXACT)


@pytest.mark.parametrize("operator", OPERATORS)
def test_backward_is_exact_at_32_bits(operator):
    torch.testing.assert_close(run(operator, exactly)[1], run(operator, None)[1], **EXACT)


@pytest.mark.parametrize("operator", OPERATORS)
def test_backward_is_close_at_4_bits(operator):
    exact, approximate = run(operator, None)[1], run(operator, coded)[1]
    error = ((approximate - exact).norm() / exact.norm()).item()
    if operator in EXACT_AT_4_BITS:
        torch.testing.assert_close(approximate, exact, **EXACT)
    else:
        assert 0 < error < BOUND_4_BITS


@pytest.mark.parametrize("operator", OPERATORS)
def test_only_codes_are_saved(operator, monkeypatch):
    """What is kept at 4 bits: codes, scales and deviations in float16, and no float32 of any size."""
    kept = []
    real = codes.pack

    def note(values, bits):
        kept.append(real(values, bits))
        return kept[-1]

    monkeypatch.setattr(codes, "pack", note)
    floats = []

    def keep(index, description, tensor):
        restore = coded(index, description, tensor)
        entry = describe(index, description, tensor)
        if description.coding == "groups" and tensor.numel() >= 200:
            rows = as_rows(tensor)
            floats.append(rows.numel() // group_size(rows.shape[-1]) * 4)
        elif description.coding == "half":
            floats.append(tensor.numel() * 2)
        assert entry.name.startswith(description.operator)
        return restore

    run(operator, keep)
    total = sum(tensor.nbytes for tensor in kept) + sum(floats)
    assert total <= 2 * 10 * 48 * BITS_A_VALUE.get(operator, 5 + 4 / 3) / 8 + 2 * 20 * 2


def test_a_tensor_saved_twice_is_kept_once():
    seen = []

    def keep(index, description, tensor):
        seen.append(index)
        return lambda: tensor

    x = torch.randn(3, 8, requires_grad=True)
    with saved_tensors(keep, []):
        y = functional.gelu(x)  # saves its derivative
        (y * y.sin()).sum()  # saves y and sin(y); sin saves y again
    assert seen == [0, 1, 2]


def test_a_layer_trained_on_a_norms_output_reads_the_norms_code():
    """One code for both, and the gradient of the layer's weight is that of the decoded input."""
    seen = []

    def keep(index, description, tensor):
        seen.append(description.operator)
        return coded(index, description, tensor)

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 10, 64, generator=generator, requires_grad=True)
    scale, bias = torch.linspace(0.5, 1.5, 64), torch.linspace(-1, 1, 64)
    down = torch.randn(2, 64, generator=generator, requires_grad=True)
    with saved_tensors(keep, [scale, bias, down]):
        z = functional.layer_norm(x, (64,), scale, bias) @ down.t()
    assert seen == ["norm", "norm_deviation"]
    upstream = torch.randn(z.shape, generator=generator)
    (gradient,) = torch.autograd.grad((z * upstream).sum(), down)
    normalized = functional.layer_norm(x, (64,)).detach()
    decoded = encode(with_bits([describe(0, Mark("norm"), normalized)._replace(coding="groups")], 4)[0], normalized)()
    expected = upstream.flatten(0, 1).t() @ (decoded * scale + bias).flatten(0, 1)
    torch.testing.assert_close(gradient, expected, **EXACT)


def test_unsupported_attention_is_refused_in_words():
    q = torch.randn(1, 2, 4, 8)
    with saved_tensors(exactly, []), pytest.raises(UserError, match="causal"):
        functional.scaled_dot_product_attention(q, q, q, is_causal=True)
