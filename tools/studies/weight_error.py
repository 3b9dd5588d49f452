"""What rounding the frozen weights does to a model: for each weight format, against float32 weights.

    python -m tools.studies.weight_error deit_tiny_patch16_224 --weights W --images FOLDER [--adapter bias]

FOLDER is of few_shot_split.py: {train,val}/<class>. Columns: stored bits of a value in product weights, scales
included; relative error of these weights; cosine and relative error of the whole gradient on 16 training images with
their labels, nothing coded; accuracy on val of the nearest class mean of the model's features, the means being those of
train.
"""

from pathlib import Path

import numpy as np
import torch

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.data.dataset import open_dataset
from edge_s2a.device.data.pixels import load_pixels
from edge_s2a.host.golden import normalized
from edge_s2a.host.pack import Adapted
from edge_s2a.host.trace.capture import observe_saved_tensors
from edge_s2a.host.trace.saved_tensors import with_bits
from edge_s2a.host.weights import WEIGHT_FORMATS, is_product_weight, named_constants
from tools.studies.whole_gradient import adapt_by, model_parser, whole_gradient

GRADIENT_IMAGES = 16
BATCH = 16


def main() -> None:
    arguments = model_parser(__doc__, needs_weights=True).parse_args()
    classes = len([path for path in (arguments.images / "train").iterdir() if path.is_dir()])

    exact = adapt_by(arguments, classes, "fp32")
    shots, validation = (labelled(arguments.images, part, classes, exact.preprocessing) for part in ("train", "val"))
    chosen = np.linspace(0, len(shots[1]) - 1, GRADIENT_IMAGES).astype(int)
    judging = normalized(shots[0][chosen], exact.preprocessing), torch.eye(classes)[shots[1][chosen]] / GRADIENT_IMAGES
    exact_weights, exact_gradient = product_weights(exact), gradient(exact, *judging)
    print("| weights | bits | error of weights | cosine | error of gradient | class means |\n|---|---|---|---|---|---|")
    for weight_format in WEIGHT_FORMATS:
        rounded = adapt_by(arguments, classes, weight_format)
        bits = stored_bits(rounded)
        error = relative_error(product_weights(rounded), exact_weights)
        found = gradient(rounded, *judging)
        cosine = torch.cosine_similarity(found, exact_gradient, dim=0)
        accuracy = class_mean_accuracy(rounded, shots, validation)
        print(
            f"| {weight_format} | {bits:.2f} | {error:.4f} | {cosine:.5f} | "
            f"{relative_error(found, exact_gradient):.4f} | {100 * accuracy:.1f} % |",
            flush=True,
        )


def labelled(folder: Path, part: str, classes: int, preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (images, height, width, 3) and labels int64 (images,)."""
    dataset = open_dataset(folder, part, None, classes)
    pixels = np.stack([load_pixels(dataset, index, preprocessing) for index in range(len(dataset))])
    return pixels, dataset.labels.astype(int)


def product_weights(adapted: Adapted) -> torch.Tensor:
    """All values of the weights that formats apply to, (values,)."""
    tensors = named_constants(adapted.model, set(adapted.adapter))
    return torch.cat([tensor.flatten() for name, tensor in tensors.items() if is_product_weight(name, tensor)])


def stored_bits(adapted: Adapted) -> float:
    tensors = named_constants(adapted.model, set(adapted.adapter))
    names = [name for name, tensor in tensors.items() if is_product_weight(name, tensor)]
    stored = sum(adapted.frozen.arrays[member].nbytes for name in names for member in adapted.frozen.members(name))
    return 8 * stored / sum(tensors[name].numel() for name in names)


def gradient(adapted: Adapted, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The gradients of all adapter tensors, (values,)."""
    observed = observe_saved_tensors(adapted.model, adapted.adapter, tuple(image.shape[1:]))
    return whole_gradient(adapted, image, target, with_bits(observed, 32))


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found - exact).norm() / exact.norm()).item()


def class_mean_accuracy(adapted: Adapted, shots: tuple, validation: tuple) -> float:
    features, labels = features_of(adapted, shots[0]), torch.from_numpy(shots[1])
    means = torch.stack([features[labels == label].mean(0) for label in labels.unique()])
    distances = torch.cdist(features_of(adapted, validation[0]), means)
    return (distances.argmin(1) == torch.from_numpy(validation[1])).double().mean().item()


@torch.no_grad()
def features_of(adapted: Adapted, pixels: np.ndarray) -> torch.Tensor:
    """What the classifier reads, (images, features)."""
    batches = [
        normalized(pixels[start : start + BATCH], adapted.preprocessing) for start in range(0, len(pixels), BATCH)
    ]
    return torch.cat([adapted.model.forward_head(adapted.model.forward_features(x), pre_logits=True) for x in batches])


if __name__ == "__main__":
    main()
