"""Counts the floating-point operations of a training step's products and convolutions, forward and backward, by torch's
own counter: python flops.py MODEL prints {"full": ..., "bias": ...}."""

import json
import sys

import torch
from task import BATCH, CLASSES, IMAGE_SIZE
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torch_train import new_model, prepare


def flops_of_step(name: str, method: str) -> int:
    model = prepare(new_model(name), method)
    image = torch.randn(BATCH, 3, IMAGE_SIZE, IMAGE_SIZE)
    with FlopCounterMode(display=False) as counter:
        nn.functional.cross_entropy(model(image), torch.randint(CLASSES, (BATCH,))).backward()
    return counter.get_total_flops()


if __name__ == "__main__":
    print(json.dumps({method: flops_of_step(sys.argv[1], method) for method in ("full", "bias")}))
