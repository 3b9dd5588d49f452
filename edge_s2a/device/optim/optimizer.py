"""SGD and AdamW on numpy arrays, in place, computed as torch.optim does."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np

# torch's default of 1e-8 lets parameters whose gradient is nothing but rounding (an attention's key bias) move by a
# full learning rate per step; 1e-6 keeps them still.
EPSILON = 1e-6
BETA1, BETA2 = 0.9, 0.999
MOMENTUM = 0.9
ONE_RATE: Mapping[str, float] = MappingProxyType({})


class Optimizer(Protocol):
    """Updates parameters in place by their gradients."""

    steps: int  # updates made
    state: dict[str, np.ndarray]  # float32, of the parameters' shapes

    def step(self, gradients: dict[str, np.ndarray], lr: float) -> None:
        """Makes one update. gradients: float32 arrays by the parameters' names; lr: the learning rate."""


class OptimizerKind(Protocol):
    """Makes an optimizer of parameters: float32 arrays, updated in place.

    relative_rates: factors on the learning rate, by parameter; 1 for those that it lacks.
    """

    def __call__(
        self, parameters: dict[str, np.ndarray], weight_decay: float, relative_rates: Mapping[str, float] = ...
    ) -> Optimizer: ...


class AdamW:
    """AdamW with decoupled weight decay (arXiv 1711.05101), applied to matrices only."""

    def __init__(
        self, parameters: dict[str, np.ndarray], weight_decay: float, relative_rates: Mapping[str, float] = ONE_RATE
    ):
        self.parameters = parameters
        self.weight_decay = weight_decay
        self.relative_rates = relative_rates
        self.steps = 0
        self.state = {
            f"{kind}:{name}": np.zeros_like(array)
            for kind in ("first_moment", "second_moment")
            for name, array in parameters.items()
        }

    def step(self, gradients: dict[str, np.ndarray], lr: float) -> None:
        self.steps += 1
        first_correction = 1 - BETA1**self.steps
        second_correction = math.sqrt(1 - BETA2**self.steps)
        for name, parameter in self.parameters.items():
            gradient = gradients[name]
            rate = lr * self.relative_rates.get(name, 1.0)
            first = self.state[f"first_moment:{name}"]
            second = self.state[f"second_moment:{name}"]
            if parameter.ndim > 1:
                parameter *= np.float32(1 - rate * self.weight_decay)
            first += (gradient - first) * np.float32(1 - BETA1)
            second *= np.float32(BETA2)
            second += gradient * gradient * np.float32(1 - BETA2)
            denominator = np.sqrt(second) / np.float32(second_correction) + np.float32(EPSILON)
            parameter -= np.float32(rate / first_correction) * (first / denominator)


class SGD:
    """SGD with momentum 0.9; weight decay is added to the gradient of matrices only."""

    def __init__(
        self, parameters: dict[str, np.ndarray], weight_decay: float, relative_rates: Mapping[str, float] = ONE_RATE
    ):
        self.parameters = parameters
        self.weight_decay = weight_decay
        self.relative_rates = relative_rates
        self.steps = 0
        self.state = {f"momentum:{name}": np.zeros_like(array) for name, array in parameters.items()}

    def step(self, gradients: dict[str, np.ndarray], lr: float) -> None:
        self.steps += 1
        for name, parameter in self.parameters.items():
            gradient = gradients[name]
            if parameter.ndim > 1 and self.weight_decay:
                gradient = gradient + np.float32(self.weight_decay) * parameter
            momentum = self.state[f"momentum:{name}"]
            momentum *= np.float32(MOMENTUM)
            momentum += gradient
            parameter -= np.float32(lr * self.relative_rates.get(name, 1.0)) * momentum


def forget(optimizer: Optimizer) -> None:
    """Resets an optimizer to its initial state; parameters stay as they are."""
    optimizer.steps = 0
    for array in optimizer.state.values():
        array.fill(0)


OPTIMIZERS: dict[str, OptimizerKind] = {"adamw": AdamW, "sgd": SGD}
STATE_ARRAYS = {"adamw": 2, "sgd": 1}  # arrays of state for each parameter array
