"""Each substituted operator: exact forward; exact backward at 32 bits; a bounded one at 4 bits."""

import pytest
import torch
from torch.nn import functional

from edge_s2a.host.quantize.substitute import SavedBits

# float32 arithmetic in another order than torch's own kernels.
EXACT = {"rtol": 2e-5, "atol": 2e-6}
# Relative error (Euclidean) of the input gradient. Half a step of 15 over the range of random values is
# 0.02 to 0.05 of their norm; attention passes it through an exponential.
BOUND_4_BITS = 0.15


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
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=torch.randn(10, 10).round(), scale=0.3)


OPERATORS = [gelu, gelu_tanh, silu, layer_norm, rms_norm, attention, masked_attention]


def run(operator, bits):
    torch.manual_seed(0)
    x = (torch.randn(2, 10, 48) * 1.5 + 0.2).requires_grad_()
    if bits is None:
        y = operator(x)
    else:
        with SavedBits(bits):
            y = operator(x)
    (gradient,) = torch.autograd.grad((y * torch.sin(torch.arange(y.numel()) * 1.0).view(y.shape)).sum(), x)
    return y.detach(), gradient


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("bits", [4, 32])
def test_forward_is_exact(operator, bits):
    torch.testing.assert_close(run(operator, bits)[0], run(operator, None)[0], **EXACT)


@pytest.mark.parametrize("operator", OPERATORS)
def test_backward_is_exact_at_32_bits(operator):
    torch.testing.assert_close(run(operator, 32)[1], run(operator, None)[1], **EXACT)


@pytest.mark.parametrize("operator", OPERATORS)
def test_backward_is_close_at_4_bits(operator):
    exact, approximate = run(operator, None)[1], run(operator, 4)[1]
    error = ((approximate - exact).norm() / exact.norm()).item()
    assert 0 < error < BOUND_4_BITS


@pytest.mark.parametrize("operator", OPERATORS)
def test_only_codes_are_saved(operator):
    """What autograd keeps at 4 bits: at most 5 bits a value, and 4 bytes a row of statistics."""
    saved = []
    x = torch.randn(2, 10, 48).requires_grad_()

    def note(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), SavedBits(4):
        operator(x)
    activations = [tensor for tensor in saved if tensor.shape != (48,)]
    # Heads of eight channels carry a scale and a minimum each: 4 + 32/8 bits.
    bits_per_value = 8 if operator in (attention, masked_attention) else 5 + 4 / 3
    assert 0 < sum(tensor.nbytes for tensor in activations) <= x.numel() * bits_per_value / 8 + 20 * 4
    assert all(tensor.dtype != torch.float32 or tensor.numel() <= 20 for tensor in activations)


def test_unsupported_attention_is_refused_in_words():
    from edge_s2a.errors import UserError

    q = torch.randn(1, 2, 4, 8)
    with SavedBits(4), pytest.raises(UserError, match="causal"):
        functional.scaled_dot_product_attention(q, q, q, is_causal=True)
