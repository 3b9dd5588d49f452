"""Scaled dot-product attention whose backward pass recomputes the softmax from low-bit q, k and v."""

import torch
from torch import Tensor

from edge_s2a.host.quantize.codes import decode_groups, encode_groups


class Attention(torch.autograd.Function):
    """softmax(q kT + mask) v for q, k, v of shape (batch, tokens, channels), q already scaled.

    Saves codes of q, k and v. With p the recomputed softmax and g the gradient that arrives: dv = pT g,
    dp = g vT, ds = p (dp - sum(dp p)), dq = ds k, dk = dsT q.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bits: int) -> Tensor:
        ctx.bits, ctx.shapes = bits, (q.shape, k.shape, v.shape)
        saved = [encode_groups(x.reshape(-1, x.shape[-1]), bits) for x in (q, k, v)]
        ctx.parts = len(saved[0])
        ctx.mask = mask
        ctx.save_for_backward(*(tensor for parts in saved for tensor in parts))
        return torch.bmm(probabilities(q, k, mask), v)

    @staticmethod
    def backward(ctx, grad: Tensor):
        parts = ctx.parts
        q, k, v = (
            decode_groups(ctx.saved_tensors[i * parts : (i + 1) * parts], ctx.bits, shape[-1]).view(shape)
            for i, shape in enumerate(ctx.shapes)
        )
        p = probabilities(q, k, ctx.mask)
        dv = torch.bmm(p.transpose(1, 2), grad)
        dp = torch.bmm(grad, v.transpose(1, 2))
        ds = p * (dp - (dp * p).sum(-1, keepdim=True))
        return torch.bmm(ds, k), torch.bmm(ds.transpose(1, 2), q), dv, None, None


def probabilities(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    scores = torch.bmm(q, k.transpose(1, 2))
    return torch.softmax(scores if mask is None else scores + mask, dim=-1)


def scaled_dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, bits: int
) -> Tensor:
    """q (..., tokens, channels), k and v (..., keys, channels), as torch's function of this name."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    flat = [x.reshape(-1, x.shape[-2], x.shape[-1]) for x in (q * scale, k, v)]
    return Attention.apply(*flat, mask, bits).view(*q.shape[:-1], v.shape[-1])
