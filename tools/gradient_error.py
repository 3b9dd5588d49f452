"""How far the gradient of coded saved tensors is from the exact one, by operator and for each kind of codes.

    python tools/gradient_error.py deit_tiny_patch16_224 --weights W --images FOLDER [--adapter bias]

Levels are fitted and bits allocated on 16 images of FOLDER; errors are measured on 16 others. Columns: cosine and
relative distance of the whole gradient, mean bits of a coded value. Rows `only ...` code the tensors of one operator.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from edge_s2a.host.adapters.inject import parse_adapter
from edge_s2a.host.calibration import calibration_images
from edge_s2a.host.capture import loss_and_gradients, observe_saved_tensors
from edge_s2a.host.golden import normalized, random_target
from edge_s2a.host.model import parse_model_kwargs
from edge_s2a.host.package import Options, adapt
from edge_s2a.host.quantize.allocate import choose_scheme
from edge_s2a.host.quantize.saved import mean_bits, with_bits

CLASSES = 5
IMAGES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--adapter", default="bias")
    parser.add_argument("--model-kwargs", nargs="*", default=[])
    parser.add_argument("--mean", type=float, nargs=3)
    parser.add_argument("--std", type=float, nargs=3)
    arguments = parser.parse_args()
    adapted = adapt(
        Options(
            arguments.model, CLASSES, weights=arguments.weights, adapter_kinds=parse_adapter(arguments.adapter),
            model_kwargs=parse_model_kwargs(arguments.model_kwargs), mean=arguments.mean, std=arguments.std,
            saved_bits="32", weight_format="fp32",
        )
    )  # fmt: skip
    preprocessing = adapted.preprocessing
    pixels = calibration_images(arguments.images, 2 * IMAGES, preprocessing, 0)
    target = random_target(IMAGES, CLASSES, 0)
    fitting, judging = (normalized(part, preprocessing) for part in (pixels[:IMAGES], pixels[IMAGES:]))
    observed = observe_saved_tensors(adapted.model, adapted.adapter, (3, *preprocessing.image_size))

    def gradient(scheme) -> np.ndarray:
        gradients = loss_and_gradients(adapted.model, adapted.adapter, judging, target, scheme)[2:]
        return torch.cat([gradient.flatten() for gradient in gradients]).numpy()

    exact_scheme = with_bits(observed, 32)
    exact = gradient(exact_scheme)

    def show(name: str, scheme) -> None:
        coded = gradient(scheme)
        cosine = coded @ exact / np.linalg.norm(coded) / np.linalg.norm(exact)
        error = np.linalg.norm(coded - exact) / np.linalg.norm(exact)
        print(f"| {name} | {cosine:.5f} | {error:.4f} | {mean_bits(scheme):.2f} |", flush=True)

    print("| codes | cosine | relative error | mean bits |\n|---|---|---|---|")
    for bits, levels in (("4", "uniform"), ("4", "fitted"), ("auto", "fitted"), ("2", "fitted"), ("8", "uniform")):
        scheme = choose_scheme(
            adapted.model, adapted.adapter, fitting, target, observed, bits, levels
        )  # fmt: skip
        show(f"{bits} bits, {levels}", scheme)
        if bits == "4":
            for operator in sorted({entry.name.split(".")[0] for entry in scheme if entry.has_codes}):
                pairs = zip(scheme, exact_scheme, strict=True)
                only = [coded if coded.name.startswith(f"{operator}.") else other for coded, other in pairs]
                show(f"{bits} bits, {levels}, only {operator}", only)


if __name__ == "__main__":
    main()
