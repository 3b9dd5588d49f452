"""How far the gradient of coded saved tensors is from the exact one, by operator and for each kind of codes.

    python -m tools.studies.gradient_error deit_tiny_patch16_224 --weights W --images FOLDER [--adapter bias]

Levels are fitted and bits allocated on 16 images of FOLDER; errors are measured on 16 others, with random values in
factors that start as zeros: others than those with which bits were allocated. Columns: cosine and
relative distance of the whole gradient, mean bits of a coded value. Rows `only ...` code the tensors of one operator.
"""

import dataclasses

import numpy as np

from edge_s2a.host.golden import normalized, random_target
from edge_s2a.host.scheme.allocate import choose_scheme, with_random_factors
from edge_s2a.host.scheme.calibration import calibration_images
from edge_s2a.host.trace.capture import observe_saved_tensors
from edge_s2a.host.trace.saved_tensors import mean_bits, with_bits
from tools.studies.whole_gradient import adapt_by, model_parser, whole_gradient

CLASSES = 5
IMAGES = 16


def main() -> None:
    arguments = model_parser(__doc__, needs_weights=False).parse_args()
    adapted = adapt_by(arguments, CLASSES, "fp32")
    preprocessing = adapted.preprocessing
    pixels = calibration_images(arguments.images, 2 * IMAGES, preprocessing, 0)
    target = random_target(IMAGES, CLASSES, 0)
    fitting, judging = (normalized(part, preprocessing) for part in (pixels[:IMAGES], pixels[IMAGES:]))
    observed = observe_saved_tensors(adapted.model, adapted.adapter, (3, *preprocessing.image_size))

    judged = dataclasses.replace(adapted, adapter=with_random_factors(adapted.adapter, seed=1))

    def gradient(scheme) -> np.ndarray:
        return whole_gradient(judged, judging, target, scheme).numpy()

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
