"""Replaces torch's non-parametric operators by those that save codes, while a model runs.

Works on the calls and not on the modules, so it holds for every timm model whose code calls them.
"""

from torch.nn import functional
from torch.overrides import TorchFunctionMode

from edge_s2a.errors import UserError
from edge_s2a.host.quantize.attention import scaled_dot_product_attention
from edge_s2a.host.quantize.gelu import Gelu
from edge_s2a.host.quantize.layer_norm import layer_norm
from edge_s2a.host.quantize.rms_norm import rms_norm
from edge_s2a.host.quantize.silu import Silu


class SavedBits(TorchFunctionMode):
    """Within this context GELU, SiLU, LayerNorm, RMSNorm and attention keep `bits`-bit codes for backward."""

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        replacement = REPLACEMENTS.get(function)
        if replacement is None:
            return function(*arguments, **keywords)
        return replacement(self.bits, *arguments, **keywords)


def _gelu(bits, x, approximate="none"):
    return Gelu.apply(x, approximate, bits)


def _layer_norm(bits, x, normalized_shape, weight=None, bias=None, eps=1e-5):
    return layer_norm(x, normalized_shape, weight, bias, eps, bits)


def _rms_norm(bits, x, normalized_shape, weight=None, eps=None):
    return rms_norm(x, normalized_shape, weight, eps, bits)


def _silu(bits, x, inplace=False):
    return Silu.apply(x, bits)


def _attention(bits, q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    if dropout_p or is_causal or enable_gqa:
        raise UserError(
            "attention with dropout, a causal mask or grouped queries cannot be packed; "
            "vision transformers of timm use none of them in evaluation mode"
        )
    return scaled_dot_product_attention(q, k, v, attn_mask, scale, bits)


REPLACEMENTS = {
    functional.gelu: _gelu,
    functional.silu: _silu,
    functional.layer_norm: _layer_norm,
    functional.rms_norm: _rms_norm,
    functional.scaled_dot_product_attention: _attention,
}
