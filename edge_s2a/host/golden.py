"""The golden step: what torch computes on fixed images, for the device to replay."""

import numpy as np
import torch
from torch import Tensor, nn

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.artifact.names import IMAGE, LOGITS, LOSS, TARGET, gradient
from edge_s2a.host.capture import loss_and_gradients

GOLDEN_BATCH = 2
# epsilon and betas are those of edge_s2a.device.optimizer; the device's update must reproduce torch's.
OPTIMIZER = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6, "weight_decay": 0.01}


def golden_step(
    model: nn.Module,
    adapter: dict[str, Tensor],
    preprocessing: Preprocessing,
    classes: int,
    bits: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Images, target, and torch's loss, logits, gradients, and adapter after one AdamW update."""
    rng = np.random.default_rng(seed)
    height, width = preprocessing.image_size
    pixels = rng.integers(0, 256, (GOLDEN_BATCH, height, width, 3), np.uint8)
    target = rng.dirichlet(np.ones(classes), GOLDEN_BATCH).astype(np.float32) / GOLDEN_BATCH
    image = normalized(pixels, preprocessing)
    loss, logits, *gradients = loss_and_gradients(model, adapter, image, torch.from_numpy(target), bits)
    named = dict(zip(adapter, gradients, strict=True))
    golden = {
        IMAGE: pixels,
        TARGET: target,
        LOSS: loss.detach().numpy(),
        LOGITS: logits.detach().numpy(),
    }
    golden |= {gradient(name): value.numpy() for name, value in named.items()}
    golden |= {f"updated:{name}": value for name, value in updated_adapter(adapter, named).items()}
    return {name: np.ascontiguousarray(array) for name, array in golden.items()}


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
