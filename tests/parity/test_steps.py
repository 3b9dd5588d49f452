"""Ten optimizer steps on the device equal ten steps of torch with the reference operators."""

import numpy as np
import pytest
import torch

from edge_s2a.artifact.archive import Artifact
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.device.engine.onnxruntime import OnnxRuntimeEngine
from edge_s2a.device.optim.optimizer import EPSILON, SGD, AdamW
from edge_s2a.host.trace.capture import loss_and_gradients
from tests.helpers.artifacts import adapt_and_pack, options_of

STEPS = 10
WEIGHT_DECAY = 0.05
RELATIVE_RATES = {"head.weight": 0.1, "head.bias": 0.1}


def torch_optimizer(kind, adapter, lr):
    groups = [
        {
            "params": [value],
            "lr": lr * RELATIVE_RATES.get(name, 1.0),
            "weight_decay": WEIGHT_DECAY if value.ndim > 1 else 0.0,
        }
        for name, value in adapter.items()
    ]
    if kind == "sgd":
        return torch.optim.SGD(groups, momentum=0.9)
    return torch.optim.AdamW(groups, eps=EPSILON)


# SGD is linear in the gradient. AdamW divides by its size, so rounding of small gradients grows, and a
# value that tips into another 4-bit code moves its neighbours by a part of a step: measured 1e-6 at 32
# bits, up to 2e-3 at 4.
@pytest.mark.parametrize(
    ("kind", "lr", "bits", "tolerance"),
    [("sgd", 0.05, 32, 1e-4), ("sgd", 0.05, 4, 2e-3), ("adamw", 2e-3, 32, 1e-3), ("adamw", 2e-3, 4, 1e-2)],
)
def test_ten_steps(tmp_path, kind, lr, bits, tolerance):
    options = options_of(saved_bits=str(bits), weight_format="int8")
    adapted = adapt_and_pack(tmp_path / "model.s2a", options)
    model, adapter = adapted.model, adapted.adapter
    engine = OnnxRuntimeEngine(Artifact(tmp_path / "model.s2a"), EngineSettings(threads=1))
    for name, array in engine.adapter.items():
        np.testing.assert_array_equal(array, adapter[name].detach().numpy())
    start = {name: array.copy() for name, array in engine.adapter.items()}

    reference = torch_optimizer(kind, adapter, lr)
    ours = {"sgd": SGD, "adamw": AdamW}[kind](engine.adapter, WEIGHT_DECAY, RELATIVE_RATES)
    generator = torch.Generator().manual_seed(2)
    for _ in range(STEPS):
        image = torch.randn(4, 3, 32, 32, generator=generator)
        target = torch.nn.functional.one_hot(torch.randint(3, (4,), generator=generator), 3).float() / 4
        loss, _, *gradients = loss_and_gradients(model, adapter, image, target, adapted.scheme)
        for value, gradient in zip(adapter.values(), gradients, strict=True):
            value.grad = gradient
        reference.step()
        result = engine.training_step(image.numpy(), target.numpy())
        ours.step(result.gradients, lr)
        assert result.loss == pytest.approx(loss.item(), rel=tolerance)

    moved = np.sqrt(sum(np.linalg.norm(adapter[n].detach().numpy() - start[n]) ** 2 for n in start))
    apart = np.sqrt(sum(np.linalg.norm(adapter[n].detach().numpy() - engine.adapter[n]) ** 2 for n in start))
    assert moved > 0.01
    assert apart <= tolerance * moved, f"{apart / moved:.1e}"
