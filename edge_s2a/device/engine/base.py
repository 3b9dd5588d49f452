"""What the device asks of an engine, which runs the programs of an artifact. Imports no engine."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

PROVIDERS = ("cpu", "cuda", "tensorrt")
"""Hardware backends that can be asked for; which of them exist depends on the engine that is installed."""

Inputs = np.ndarray | dict[str, np.ndarray]
"""A micro-batch: normalised images, float32 (batch, 3, height, width); or, where the artifact has features, these by
name, each float32 of its shape in `Manifest.features` with the first axis `batch` times as long."""


@dataclass(frozen=True)
class EngineSettings:
    """How an engine computes. `edge_s2a.device.load.start_engine` makes them once per process."""

    threads: int
    provider: str = "cpu"  # one of PROVIDERS


class StepResult(NamedTuple):
    """What one micro-batch gave."""

    loss: float  # cross-entropy with the target, summed over the images
    logits: np.ndarray  # float32 (batch, classes)
    gradients: dict[str, np.ndarray]  # by adapter tensor, of its shape; valid until the next run


class Taps(NamedTuple):
    """What one pass over a micro-batch of images gave."""

    logits: np.ndarray  # float32 (batch, classes); no classes where the artifact has no head
    features: np.ndarray  # float32 (batch, features): the statistics of `Manifest.taps`, side by side


class Engine(Protocol):
    """The programs of one artifact, with the adapter's tensors as their live inputs.

    Each run raises ArenaExhausted where its buffers do not fit the engine's memory (a smaller micro-batch may), and
    EngineError where it fails otherwise.
    """

    @property
    def name(self) -> str:
        """Of the library that computes."""

    @property
    def version(self) -> str:
        """Of that library."""

    @property
    def providers(self) -> list[str]:
        """What runs the graphs, in the library's own names, in order of preference."""

    @property
    def adapter(self) -> dict[str, np.ndarray]:
        """The trained tensors, float32. They may be written in place: the next run reads them."""

    @property
    def classes(self) -> int:
        """The number of classes."""

    @property
    def feature_shapes(self) -> dict[str, list[int]]:
        """Shape of each feature per image (`Manifest.features`); empty where programs read images."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the frozen weights."""

    @property
    def streamed_weight_bytes(self) -> int:
        """Bytes of the frozen weights that are in memory at once where they are streamed."""

    def training_step(self, inputs: Inputs, target: np.ndarray) -> StepResult:
        """Forward and backward pass of a micro-batch.

        target: float32 (batch, classes), smoothed labels divided by the effective batch size.
        """

    def logits(self, inputs: Inputs) -> np.ndarray:
        """float32 (batch, classes)."""

    def taps(self, image: np.ndarray) -> Taps:
        """Of images float32 (batch, 3, height, width)."""

    def features(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """The features of images float32 (batch, 3, height, width), as `Inputs` holds them."""


def count_images(inputs: Inputs, feature_shapes: dict[str, list[int]]) -> int:
    """The number of images in a micro-batch."""
    if not isinstance(inputs, dict):
        return len(inputs)
    name, (first, *_) = next(iter(feature_shapes.items()))
    return len(inputs[name]) // first


def part_of(inputs: Inputs, start: int, end: int, feature_shapes: dict[str, list[int]]) -> Inputs:
    """The images from `start` up to, not including, `end`, as views."""
    if not isinstance(inputs, dict):
        return inputs[start:end]
    return {
        name: array[start * feature_shapes[name][0] : end * feature_shapes[name][0]] for name, array in inputs.items()
    }
