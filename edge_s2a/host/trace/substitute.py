"""Replaces torch's non-parametric operators, while a model runs, by operators that say what they save.

It replaces calls, not modules, so it works for every timm model whose code calls them.
"""

import torch
from torch import Tensor
from torch.nn import functional

from edge_s2a.host.trace.operators.attention import scaled_dot_product_attention
from edge_s2a.host.trace.operators.average_pool import adaptive_avg_pool2d, avg_pool2d
from edge_s2a.host.trace.operators.batch_norm import batch_norm
from edge_s2a.host.trace.operators.convolution import conv2d
from edge_s2a.host.trace.operators.gelu import gelu
from edge_s2a.host.trace.operators.hard_swish import hard_sigmoid, hard_swish
from edge_s2a.host.trace.operators.interpolate import interpolate
from edge_s2a.host.trace.operators.layer_norm import group_norm, layer_norm
from edge_s2a.host.trace.operators.linear import linear
from edge_s2a.host.trace.operators.max_pool import max_pool2d
from edge_s2a.host.trace.operators.relu import hardtanh, leaky_relu, relu, relu6
from edge_s2a.host.trace.operators.rms_norm import rms_norm
from edge_s2a.host.trace.operators.sigmoid import sigmoid, tanh
from edge_s2a.host.trace.operators.silu import silu
from edge_s2a.host.trace.saved_tensors import Keep, Replacements, SavedTensors

REPLACEMENTS: Replacements = {
    functional.adaptive_avg_pool2d: adaptive_avg_pool2d,
    functional.avg_pool2d: avg_pool2d,
    functional.batch_norm: batch_norm,
    functional.conv2d: conv2d,
    functional.gelu: gelu,
    functional.group_norm: group_norm,
    functional.hardsigmoid: hard_sigmoid,
    functional.hardswish: hard_swish,
    functional.hardtanh: hardtanh,
    functional.interpolate: interpolate,
    functional.layer_norm: layer_norm,
    functional.leaky_relu: leaky_relu,
    functional.linear: linear,
    functional.max_pool2d: max_pool2d,
    functional.relu: relu,
    functional.relu6: relu6,
    functional.rms_norm: rms_norm,
    functional.scaled_dot_product_attention: scaled_dot_product_attention,
    functional.silu: silu,
    torch.relu: relu,
    torch.sigmoid: sigmoid,
    torch.tanh: tanh,
    Tensor.relu: relu,
    Tensor.sigmoid: sigmoid,
    Tensor.tanh: tanh,
}


def saved_tensors(keep: Keep, constants: list[Tensor]) -> SavedTensors:
    """The context in which the operators of this package replace torch's and `keep` keeps the saved tensors."""
    return SavedTensors(keep, constants, REPLACEMENTS)
