"""What the tools that judge gradients on a real model share."""

import argparse
from pathlib import Path

import torch

from edge_s2a.cli.options import parse_pairs
from edge_s2a.host.pack import Adapted, adapt
from edge_s2a.host.trace.capture import loss_and_gradients
from edge_s2a.host.trace.saved_tensors import SavedTensor
from edge_s2a.options import PackOptions


def model_parser(description: str, needs_weights: bool) -> argparse.ArgumentParser:
    """MODEL, --weights, --images and what else `adapt_by` reads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--weights", type=Path, required=needs_weights)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--adapter", default="bias")
    parser.add_argument("--model-kwargs", nargs="*", default=[])
    parser.add_argument("--mean", type=float, nargs=3)
    parser.add_argument("--std", type=float, nargs=3)
    return parser


def adapt_by(arguments: argparse.Namespace, classes: int, weight_format: str) -> Adapted:
    """The model, nothing coded yet."""
    return adapt(
        PackOptions(
            arguments.model, "unused.s2a", num_classes=classes, weights=arguments.weights, adapter=arguments.adapter,
            model_kwargs=parse_pairs("model_kwargs", arguments.model_kwargs), mean=arguments.mean, std=arguments.std,
            saved_bits="32", weight_format=weight_format,
        )
    )  # fmt: skip


def whole_gradient(
    adapted: Adapted, image: torch.Tensor, target: torch.Tensor, scheme: list[SavedTensor]
) -> torch.Tensor:
    """The gradients of all adapter tensors, float32 (values,)."""
    gradients = loss_and_gradients(adapted.model, adapted.adapter, image, target, scheme)[2:]
    return torch.cat([gradient.flatten() for gradient in gradients])
