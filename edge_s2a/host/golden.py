"""The golden step and taps: what torch computes on fixed images, for the device to replay."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.artifact.names import IMAGE, LOGITS, LOSS, TARGET, gradient, tap
from edge_s2a.errors import UserError
from edge_s2a.host.scheme.calibration import synthetic_images
from edge_s2a.host.taps import Tap, logits_and_taps
from edge_s2a.host.trace.capture import loss_and_gradients
from edge_s2a.host.trace.saved_tensors import SavedTensor

GOLDEN_BATCH = 2
# epsilon and betas are those of edge_s2a.device.optim.optimizer; the device's update must reproduce torch's.
OPTIMIZER = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6, "weight_decay": 0.01}


def golden_step(
    model: nn.Module,
    adapter: dict[str, Tensor],
    preprocessing: Preprocessing,
    classes: int,
    scheme: list[SavedTensor],
    seed: int,
) -> dict[str, np.ndarray]:
    """Images, target, and torch's loss, logits, gradients, and adapter after one AdamW update.

    Raises UserError if a gradient is not finite.
    """
    pixels = synthetic_images(GOLDEN_BATCH, preprocessing.image_size, seed)
    target = random_target(GOLDEN_BATCH, classes, seed)
    image = normalized(pixels, preprocessing)
    loss, logits, *gradients = loss_and_gradients(model, adapter, image, target, scheme)
    named = dict(zip(adapter, gradients, strict=True))
    if not all(value.isfinite().all() for value in gradients):
        raise UserError(
            "the gradient is not finite: the weights are not, or the model has an operator that bears no rounding; "
            "check the weights, try --saved-bits 32, or choose another model"
        )
    golden = {
        IMAGE: pixels,
        TARGET: target.numpy(),
        LOSS: loss.detach().numpy(),
        LOGITS: logits.detach().numpy(),
    }
    golden |= {gradient(name): value.numpy() for name, value in named.items()}
    golden |= {f"updated:{name}": value for name, value in updated_adapter(adapter, named).items()}
    return {name: np.ascontiguousarray(array) for name, array in golden.items()}


def golden_taps(
    model: nn.Module, adapter: dict[str, Tensor], preprocessing: Preprocessing, taps: Sequence[Tap], seed: int
) -> dict[str, np.ndarray]:
    """Images, and torch's statistics of the tapped blocks. Raises UserError if one is not finite."""
    pixels = synthetic_images(GOLDEN_BATCH, preprocessing.image_size, seed)
    _, statistics = logits_and_taps(model, adapter, normalized(pixels, preprocessing), taps)
    for name, value in statistics.items():
        if not value.isfinite().all():
            raise UserError(f"{name} of the backbone is not finite; check the weights, or choose another model")
    return {IMAGE: pixels} | {tap(name): value.contiguous().numpy() for name, value in statistics.items()}


def random_target(batch: int, classes: int, seed: int) -> Tensor:
    """float32 (batch, classes): random distributions, divided by the batch size."""
    target = np.random.default_rng(seed).dirichlet(np.ones(classes), batch) / batch
    return torch.from_numpy(target.astype(np.float32))


def normalized(pixels: np.ndarray, preprocessing: Preprocessing) -> Tensor:
    """uint8 (batch, height, width, 3) -> float32 (batch, 3, height, width)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std


def updated_adapter(adapter: dict[str, Tensor], gradients: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """One step of torch's AdamW from fresh state, decaying matrices only."""
    copies = {name: value.detach().clone() for name, value in adapter.items()}
    for name, copy in copies.items():
        copy.grad = gradients[name]
    groups = [
        {
            "params": [copy for copy in copies.values() if copy.ndim > 1],
            "weight_decay": OPTIMIZER["weight_decay"],
        },
        {"params": [copy for copy in copies.values() if copy.ndim <= 1], "weight_decay": 0.0},
    ]
    torch.optim.AdamW(
        groups, lr=OPTIMIZER["lr"], betas=(OPTIMIZER["beta1"], OPTIMIZER["beta2"]), eps=OPTIMIZER["epsilon"]
    ).step()
    return {name: copy.numpy() for name, copy in copies.items()}
