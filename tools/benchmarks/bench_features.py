"""What kept features save where only side modules and the head train.

    python -m tools.benchmarks.bench_features [--models resnet50] [--bits 4,32] [--rounds 3]

For each model and width of saved tensors: a fresh process trains with `--feature-cache 0`, and one with all features
kept, in turn, two threads, batches of eight images of 224 px, random weights. Columns: the median step of each over the
rounds, their ratio, and peak memory of the processes.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from tools.benchmarks.rivals.processes import call, images, packed, peak_of
from tools.benchmarks.rivals.task import BATCH, LEARNING_RATE, MODELS, THREADS

STEPS = 5  # an epoch
EPOCHS = 3
MIB = 1 << 20


def train(artifact: Path, cache: str) -> tuple[list[float], int]:
    """(seconds of the steps after the first epoch, peak bytes)"""
    with tempfile.TemporaryDirectory() as folder:
        _, peak_bytes = peak_of(
            "training", sys.executable, "-m", "edge_s2a", "train", artifact, "--data", images(STEPS * BATCH),
            "--batch-size", BATCH, "--epochs", EPOCHS, "--lr", LEARNING_RATE, "--threads", THREADS,
            "--memory-budget", "16GiB", "--feature-cache", cache, "--output", folder,
        )  # fmt: skip
        lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    return [line["seconds"] for line in lines if line["kind"] == "step" and line["epoch"] > 1], peak_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--bits", default="4,32")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(
        "| model | saved tensors | kept per image | step | step from features | ratio | peak memory | from features |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for model in options.models.split(","):
        for bits in options.bits.split(","):
            artifact = packed(model, bits, "int8", adapter="side")
            inspected = json.loads(
                call("inspecting", sys.executable, "-m", "edge_s2a", "inspect", artifact, "--json").stdout
            )
            rounds = [[train(artifact, cache) for cache in ("0", "16GiB")] for _ in range(options.rounds)]
            whole_s, kept_s = (statistics.median(s for runs in rounds for s in runs[way][0]) for way in (0, 1))
            whole_peak, kept_peak = (max(runs[way][1] for runs in rounds) / MIB for way in (0, 1))
            print(
                f"| {MODELS[model]} | {bits} bits | {inspected['feature_bytes_per_image'] / 1000:.0f} kB "
                f"| {1000 * whole_s:.0f} ms | {1000 * kept_s:.0f} ms | {whole_s / kept_s:.1f} "
                f"| {whole_peak:.0f} MiB | {kept_peak:.0f} MiB |",
                flush=True,
            )


if __name__ == "__main__":
    main()
