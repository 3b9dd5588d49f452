"""How far the gradient is from the exact one where products are computed in int8 (`pack --compute int8`).

    python -m tools.studies.compute_error deit_tiny_patch16_224 --weights W --images FOLDER [--adapter bias]

With int8 frozen weights, on 8 images of FOLDER. Columns: cosine and relative distance of the whole gradient, relative
distance of the logits.
"""

import numpy as np
import torch

from edge_s2a.host.golden import normalized, random_target
from edge_s2a.host.scheme.calibration import calibration_images
from edge_s2a.host.scheme.compute import choose_int8_layers
from edge_s2a.host.trace.capture import loss_and_gradients, observe_saved_tensors
from edge_s2a.host.trace.saved_tensors import with_bits
from tools.studies.whole_gradient import adapt_by, model_parser

CLASSES = 5
IMAGES = 8


def main() -> None:
    arguments = model_parser(__doc__, needs_weights=False).parse_args()
    adapted = adapt_by(arguments, CLASSES, "int8")
    pixels = calibration_images(arguments.images, IMAGES, adapted.preprocessing, 0)
    image, target = normalized(pixels, adapted.preprocessing), random_target(IMAGES, CLASSES, 0)
    observed = observe_saved_tensors(adapted.model, adapted.adapter, (3, *adapted.preprocessing.image_size))

    def step(bits: int) -> tuple[np.ndarray, np.ndarray]:
        """(logits, whole gradient)"""
        scheme = with_bits(observed, bits)
        _, logits, *gradients = loss_and_gradients(adapted.model, adapted.adapter, image, target, scheme)
        return logits.detach().numpy(), torch.cat([value.flatten() for value in gradients]).numpy()

    exact_logits, exact = step(32)
    print("| saved tensors | products | cosine | relative error | logits |\n|---|---|---|---|---|")
    for compute in ("fp32", "int8"):
        choose_int8_layers(adapted.model, adapted.frozen, compute, image)
        for bits in (32, 4):
            logits, gradient = step(bits)
            cosine = gradient @ exact / np.linalg.norm(gradient) / np.linalg.norm(exact)
            error, logits_error = (
                np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
                for ours, theirs in ((gradient, exact), (logits, exact_logits))
            )
            print(f"| {bits} bits | {compute} | {cosine:.5f} | {error:.4f} | {logits_error:.4f} |", flush=True)


if __name__ == "__main__":
    main()
