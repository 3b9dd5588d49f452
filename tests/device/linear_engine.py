"""An engine in numpy: a linear classifier of pixels, or of a feature. The tests' stand-in for onnxruntime."""

import numpy as np

from edge_s2a.device.engine.base import Inputs, StepResult, count_images
from edge_s2a.errors import ArenaExhausted


class LinearEngine:
    """Logits W x + b, where x are an image's pixels, or its feature "f": the pixels times 2. Its memory holds
    `most_images` at once."""

    name, version, providers = "numpy", np.__version__, ("numpy",)
    weight_bytes = streamed_weight_bytes = 0

    def __init__(self, classes: int, shape: list[int], with_features: bool = False, most_images: int = 1 << 30):
        """shape: of an image, (3, height, width). With features, "f" has this shape, too."""
        self.classes, self.most_images = classes, most_images
        self.feature_shapes = {"f": shape} if with_features else {}
        rng = np.random.default_rng(0)
        weight = rng.standard_normal((classes, int(np.prod(shape))), np.float32)
        self.adapter = {"head.weight": weight, "head.bias": np.zeros(classes, np.float32)}
        self.runs: list[int] = []  # images of each run that had the memory

    def training_step(self, inputs: Inputs, target: np.ndarray) -> StepResult:
        logits = self.logits(inputs)
        exponentials = np.exp(logits - logits.max(-1, keepdims=True))
        probabilities = exponentials / exponentials.sum(-1, keepdims=True)
        error = probabilities * target.sum(-1, keepdims=True) - target
        gradients = {"head.weight": error.T @ self._rows(inputs), "head.bias": error.sum(0)}
        return StepResult(-float((target * np.log(probabilities)).sum()), logits, gradients)

    def logits(self, inputs: Inputs) -> np.ndarray:
        count = count_images(inputs, self.feature_shapes)
        if count > self.most_images:
            raise ArenaExhausted(f"{count} images are more than {self.most_images}")
        self.runs.append(count)
        return self._rows(inputs) @ self.adapter["head.weight"].T + self.adapter["head.bias"]

    def features(self, image: np.ndarray) -> dict[str, np.ndarray]:
        return {"f": 2 * image.reshape(-1, *image.shape[2:])}

    def _rows(self, inputs: Inputs) -> np.ndarray:
        """float32 (images, pixels or values of the feature)"""
        if self.feature_shapes and not isinstance(inputs, dict):
            inputs = self.features(inputs)
        values = inputs["f"] if isinstance(inputs, dict) else inputs
        return values.reshape(count_images(inputs, self.feature_shapes), -1)
