"""A camera that learns while it watches: a person names the first frames, and later the ones that it does not know.
Each named frame is learned in one pass; a class that is new is there from the next frame on.

    python examples/learn_from_camera.py model.s2a --images photos/train --memory-budget 192MiB

The camera is played by a folder of images, IMAGES/<class>/*, in random order. For a real one replace `frames`, for
example by OpenCV's VideoCapture, and take the name from a key. What was learned goes to K, and the next start goes on
from there.
"""

import argparse
import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from edge_s2a import Learner

RECENT = 16  # frames that are compared with what was learned


def frames(images: Path, count: int, seed: int) -> Iterator[tuple[np.ndarray, str]]:
    """Pixels uint8 (height, width, 3) in RGB, and the class that a person would name."""
    paths = sorted(path for path in images.glob("*/*") if path.is_file())
    if not paths:
        raise SystemExit(f"{images} has no images; give a folder with one folder per class")
    for path in random.Random(seed).choices(paths, k=count):
        yield np.asarray(Image.open(path).convert("RGB")), path.parent.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", help="a file that edge-s2a pack wrote")
    parser.add_argument("--images", type=Path, required=True, help="plays the camera: IMAGES/<class>/*")
    parser.add_argument("--memory-budget", default="auto", help="for the whole process (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=300, help="to watch (default: %(default)s)")
    parser.add_argument("--named", type=int, default=30, help="frames named at first (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=0.05, help="asks in vain this often (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the images (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("camera.safetensors"), metavar="K", help="knowledge file")
    options = parser.parse_args()
    learner = Learner(options.artifact, memory_budget=options.memory_budget)
    if options.output.exists():
        learner.load(options.output)
        print(f"goes on from {learner.images} images of {', '.join(learner.classes)}")
    is_right: list[bool] = []
    recent: deque[np.ndarray] = deque(maxlen=RECENT)
    for number, (pixels, name) in enumerate(frames(options.images, options.frames, options.seed), 1):
        recent.append(pixels)
        if learner.images < options.named or learner.is_unknown(pixels, options.rate):
            learner.learn([(pixels, name)])  # a person presses a key
            print(f"frame {number}: learned as {name}, image {learner.images}")
        else:
            is_right.append(learner.predict(pixels)[0].label == name)
        if number % RECENT == 0 and (drift := learner.drift(recent)) and drift.drifted:
            print(f"frame {number}: unlike what was learned, {drift.statistic:.2f} of at most {drift.threshold:.2f}")
    learner.save(options.output)
    print(f"accuracy: {sum(is_right) / max(1, len(is_right)):.3f} of {len(is_right)} frames that nobody named")


if __name__ == "__main__":
    main()
