"""How long learning in one pass takes: against torch's full fine-tuning, and for one image more.

    python -m tools.benchmarks.bench_learn [--models deit_tiny_patch16_224,vit_base_patch16_224] [--rounds 3]

100 JPEG photos of five classes, random weights, two threads. Columns: the command `edge-s2a learn` from its start to
the knowledge file; torch's full fine-tuning of the same model for 15 epochs (from the median of 6 of its steps of 8
images, because 15 epochs are 188; without loading, decoding and evaluation); their ratio; then, in one process that
keeps 5,000 images, one forward pass, `Learner.learn` of one more image (its forward pass included), and
`Learner.predict` after it. Both sides run in turn, in each round.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from edge_s2a.artifact.learned import DIGEST_BYTES, Kept
from edge_s2a.codec.features import encode
from edge_s2a.device.closed_form import state as states
from edge_s2a.device.learner import Learner
from tools.benchmarks.rivals.processes import RIVALS, call, packed
from tools.benchmarks.rivals.task import BATCH, THREADS

CLASSES, PER_CLASS, EPOCHS, KEPT = 5, 20, 15, 5000
STEPS = 6
REPEATS = 9


def write_photos(folder: Path) -> Path:
    """FOLDER/<class>/<number>.jpg, 500x375."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / str(label)).mkdir()
        for number in range(PER_CLASS):
            coarse = rng.integers(0, 256, (25, 20, 3), np.uint8)
            Image.fromarray(coarse).resize((500, 375)).save(folder / str(label) / f"{number}.jpg")
    return folder


def learn_s(artifact: Path, photos: Path) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start_s = time.monotonic()
        call(
            "learning", sys.executable, "-m", "edge_s2a", "learn", artifact, "--data", photos, "--output",
            Path(folder, "K.safetensors"), "--threads", THREADS, "--memory-budget", "2GiB", "-q",
        )  # fmt: skip
        return time.monotonic() - start_s


def fine_tuning_s(model: str) -> float:
    done = call("training", sys.executable, RIVALS / "torch_train.py", model, "full", STEPS)
    steps = -(-CLASSES * PER_CLASS // BATCH) * EPOCHS
    return statistics.median(json.loads(done.stdout)[1:]) * steps


def one_more_ms(artifact: Path) -> tuple[float, float, float]:
    """Medians of (forward pass, learning one image more, predicting one)."""
    learner = Learner(artifact, threads=THREADS, memory_budget="4GiB", storage="1GiB")
    rng = np.random.default_rng(0)
    features = rng.standard_normal((KEPT, learner.layout.width), np.float32)
    labels = rng.integers(0, CLASSES, KEPT)
    features += labels[:, None] * 0.1
    digests = rng.integers(0, 256, (KEPT, DIGEST_BYTES), np.uint8)
    kept = Kept(digests, labels, encode(features, learner.layout))
    learner.become(states.add(learner.state, [str(label) for label in range(CLASSES)], kept)[0])
    side = learner.manifest.preprocessing.image_size
    images = rng.integers(0, 256, (3 * REPEATS, *side, 3), np.uint8)
    learner.predict(images[0])

    def median_ms(work, first: int) -> float:
        times = []
        for number in range(REPEATS):
            start_s = time.perf_counter()
            work(images[first + number])
            times.append(time.perf_counter() - start_s)
        return 1000 * statistics.median(times)

    return (
        median_ms(learner.features, 0),
        median_ms(lambda image: learner.learn([(image, "0")]) and learner.head, REPEATS),
        median_ms(learner.predict, 2 * REPEATS),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", default="deit_tiny_patch16_224,vit_base_patch16_224")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("| model | learn | full fine-tuning | ratio | forward pass | one image more, of 5,000 | predict |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        photos = write_photos(Path(folder))
        for model in options.models.split(","):
            artifact = packed(model, "4", "int8")
            rounds = [(learn_s(artifact, photos), fine_tuning_s(model)) for _ in range(options.rounds)]
            learned_s, trained_s = (statistics.median(times) for times in zip(*rounds, strict=True))
            forward, more, predicted = one_more_ms(artifact)
            print(
                f"| {model} | {learned_s:.1f} s | {trained_s:.0f} s | {trained_s / learned_s:.0f} | {forward:.0f} ms "
                f"| {more:.0f} ms, {more / forward:.2f} passes | {predicted:.0f} ms |",
                flush=True,
            )


if __name__ == "__main__":
    main()
