"""Learns from a camera while it watches: most frames are classified, some get a label, and between two frames the
trainer takes a step as soon as it has a batch of labels.

    python examples/camera_loop.py model.s2a --images photos/train --memory-budget 192MiB

The camera is played by a folder of images, IMAGES/<class>/*, in random order. For a real one replace `frames`, for
example by OpenCV's VideoCapture, and take the label from a button.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from edge_s2a import Trainer


def frames(images: Path, count: int, seed: int) -> Iterator[tuple[np.ndarray, str]]:
    """Pixels uint8 (height, width, 3) in RGB, and the class that a person would name."""
    paths = sorted(path for path in images.glob("*/*") if path.is_file())
    if not paths:
        raise SystemExit(f"{images} has no images; give a folder with one folder per class")
    for path in random.Random(seed).choices(paths, k=count):
        yield np.asarray(Image.open(path).convert("RGB")), path.parent.name


def peak_mib() -> float:
    """The peak resident memory of this process, as the kernel counts it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", help="a file that edge-s2a pack wrote")
    parser.add_argument("--images", type=Path, required=True, help="plays the camera: IMAGES/<class>/*")
    parser.add_argument("--memory-budget", default="auto", help="for the whole process (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=300, help="to watch (default: %(default)s)")
    parser.add_argument("--label-every", type=int, default=2, help="a person labels every Nth (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="labels per step (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=3e-3, help="learning rate (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("camera.safetensors"), help="the adapter to write")
    options = parser.parse_args()
    classes = sorted(path.name for path in options.images.iterdir() if path.is_dir())
    trainer = Trainer(
        options.artifact, memory_budget=options.memory_budget, batch_size=options.batch_size, lr=options.lr,
        classes=classes,
    )  # fmt: skip
    waiting: list[tuple[np.ndarray, str]] = []
    is_right: list[bool] = []
    for number, (pixels, name) in enumerate(frames(options.images, options.frames, seed=0)):
        if number % options.label_every:
            is_right.append(trainer.predict(pixels)[0].label == name)
            continue
        waiting.append((pixels, name))
        if len(waiting) == options.batch_size:
            if trainer.steps == 0:
                trainer.start(waiting)  # the head begins at the class means
            step = trainer.step(waiting)
            waiting.clear()
            print(f"frame {number + 1}: step {step.step}, loss {step.loss:.3f}, {step.seconds:.2f} s")
    trainer.save(options.output)
    last = is_right[len(is_right) // 2 :]
    print(f"accuracy: {sum(last) / len(last):.3f} on the last {len(last)} frames without a label")
    print(f"peak memory: {peak_mib():.1f} MiB of {trainer.plan.budget_bytes / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
