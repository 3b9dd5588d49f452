"""Trains in torch, with random weights on random images: python torch_train.py MODEL METHOD [STEPS].

METHOD: `full`; `checkpointing`, the same with timm's gradient checkpointing; `compile`, the same by torch.compile;
`bias`, the parameters that `edge-s2a pack --adapter bias` trains; `lora`, rank 8 by the package peft, and the head.
Prints the seconds of each step as a JSON list.
"""

import json
import sys
import time

import timm
import torch
from task import BATCH, CLASSES, IMAGE_SIZE, LEARNING_RATE, STEPS, THREADS
from torch import nn

from edge_s2a.host.adapters.bias import trainable_biases
from edge_s2a.host.sources.timm import classifier_names

RANK = 8


def new_model(name: str) -> nn.Module:
    """As timm makes it for training, but for the random depth of some: all methods do all of the work."""
    return timm.create_model(name, num_classes=CLASSES, drop_path_rate=0.0).train()


def names_of_bias_and_head(model: nn.Module) -> list[str]:
    """The parameters that the bias module trains; layers without a bias get one."""
    biases = set(trainable_biases(model))
    heads = tuple(f"{name}." for name in classifier_names(model))
    return [name for name, _ in model.named_parameters() if name in biases or name.startswith(heads)]


def lora_targets(model: nn.Module) -> list[str]:
    """Every linear layer of a transformer, every convolution of one group of a convolutional network; not the head."""
    heads = classifier_names(model)
    layers = {name: module for name, module in model.named_modules() if name not in heads}
    linear = [name for name, module in layers.items() if isinstance(module, nn.Linear)]
    dense = [name for name, module in layers.items() if isinstance(module, nn.Conv2d) and module.groups == 1]
    return linear or dense


def prepare(model: nn.Module, method: str) -> nn.Module:
    if method == "checkpointing":
        model.set_grad_checkpointing(True)
    elif method == "compile":
        return torch.compile(model)
    elif method == "bias":
        trained = set(names_of_bias_and_head(model))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
    elif method == "lora":
        from peft import LoraConfig, get_peft_model

        targets, heads = lora_targets(model), classifier_names(model)
        return get_peft_model(model, LoraConfig(r=RANK, target_modules=targets, modules_to_save=heads))
    elif method != "full":
        raise SystemExit(f"no method {method}")
    return model


def main() -> None:
    name, method, *steps = sys.argv[1:]
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    model = prepare(new_model(name), method)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    seconds = []
    for _ in range(int(steps[0]) if steps else STEPS):
        image, labels = torch.randn(BATCH, 3, IMAGE_SIZE, IMAGE_SIZE), torch.randint(CLASSES, (BATCH,))
        start_s = time.perf_counter()
        loss = nn.functional.cross_entropy(model(image), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start_s)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
