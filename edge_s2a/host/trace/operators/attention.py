"""Scaled dot-product attention whose backward pass recomputes the softmax from q, k and v."""

from typing import Any

import torch
from torch import Tensor

from edge_s2a.errors import UserError
from edge_s2a.host.trace.saved_tensors import Mark, mark


class Attention(torch.autograd.Function):
    """softmax(q kT + mask) v for q, k, v of shape (batch, tokens, channels), q already scaled.

    Saves q, k and v. With p the recomputed softmax and g the gradient that arrives: dv = pT g,
    dp = g vT, ds = p (dp - sum(dp p)), dq = ds k, dk = dsT q.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        ctx.mask = mask
        names = ("attention_q", "attention_k", "attention_v")
        ctx.save_for_backward(*(mark(x, Mark(name)) for x, name in zip((q, k, v), names, strict=True)))
        return torch.bmm(probabilities(q, k, mask), v)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        p = probabilities(q, k, ctx.mask)
        dv = torch.bmm(p.transpose(1, 2), grad)
        dp = torch.bmm(grad, v.transpose(1, 2))
        ds = p * (dp - (dp * p).sum(-1, keepdim=True))
        return torch.bmm(ds, k), torch.bmm(ds.transpose(1, 2), q), dv, None


def probabilities(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """mask: (heads, tokens, keys) or with more leading axes, repeated over the rest of the batch."""
    scores = torch.bmm(q, k.transpose(1, 2))
    if mask is not None:
        scores = (scores.view(-1, *mask.shape) + mask).view(scores.shape)
    return torch.softmax(scores, dim=-1)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """query (..., tokens, channels), key and value (..., keys, channels), as torch's function of this name."""
    if dropout_p or is_causal or enable_gqa:
        raise UserError(
            "attention with dropout, a causal mask or grouped queries cannot be packed; "
            "vision transformers of timm use none of them in evaluation mode"
        )
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    flat = [x.reshape(-1, x.shape[-2], x.shape[-1]) for x in (query * scale, key, value)]
    mask = None if attn_mask is None else aligned(attn_mask, (*query.shape[:-1], key.shape[-2]))
    return Attention.apply(*flat, mask).view(*query.shape[:-1], value.shape[-1])


def aligned(mask: Tensor, scores_shape: tuple[int, ...]) -> Tensor:
    """The mask for scores (..., heads, tokens, keys), less leading axes that only repeat it."""
    mask = mask.expand(*mask.shape[:-3], *scores_shape[-min(mask.ndim, 3) :])
    while mask.ndim > 3 and mask.shape[0] == 1:
        mask = mask.squeeze(0)
    return mask
