"""What a training run spends outside the engine: start-up, and the loop around its steps.

    python -m tools.benchmarks.bench_loop [--models resnet50] [--rounds 3]

For each model a fresh process trains with biases on JPEGs, two threads, batches of eight. Columns, medians over the
rounds: seconds from the start of the process until everything is imported, until the artifact is open, verified and
loaded, and until its first training step has run (of the class means, from which the head starts); then, of the
optimizer steps, seconds, and the share that is outside the engine: waiting for images and normalising them, adding up
gradients, the optimizer, and the records.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tools.benchmarks.rivals.processes import call, images, packed
from tools.benchmarks.rivals.task import BATCH, LEARNING_RATE, MODELS, THREADS

TRAIN = (sys.executable, "-m", "tools.benchmarks.bench_loop", "--train")
STEPS = 8  # of which the first does not count


def train(artifact: Path, data: Path, started_s: float) -> None:
    """In the measured process, which began at `started_s`: prints what `main` tabulates."""
    from edge_s2a import train as train_within
    from edge_s2a.device import trainer, training_run  # noqa: F401 - imported before the first moment
    from edge_s2a.device.engine import onnxruntime as session

    moments = [time.time() - started_s]
    engine_s = [0.0]
    load, training_step = trainer.load, session.OnnxRuntimeEngine.training_step

    def timed_load(*arguments):
        runtime = load(*arguments)
        moments.append(time.time() - started_s)
        return runtime

    def timed_step(*arguments):
        start_s = time.perf_counter()
        result = training_step(*arguments)
        engine_s.append(time.perf_counter() - start_s)
        if len(moments) == 2:
            moments.append(time.time() - started_s)
        return result

    trainer.load, session.OnnxRuntimeEngine.training_step = timed_load, timed_step
    with tempfile.TemporaryDirectory() as folder:
        train_within(
            artifact, data, folder, memory_budget=16 << 30, threads=THREADS, epochs=1, batch_size=BATCH,
            lr=LEARNING_RATE, quiet=True,
        )  # fmt: skip
        lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    steps_s = [line["seconds"] for line in lines if line["kind"] == "step"][1:]
    outside = 1 - sum(engine_s[-len(steps_s) :]) / sum(steps_s)
    print(json.dumps([*moments, statistics.median(steps_s), outside]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        artifact, data, started_s = options.train
        train(Path(artifact), Path(data), float(started_s))
        return
    data = images(STEPS * BATCH)
    print("| model | imported | loaded | first step | an optimizer step | outside the engine |")
    print("|---|---|---|---|---|---|")
    for model in options.models.split(","):
        artifact = packed(model, "4", "int8")
        rounds = [
            json.loads(call("training", *TRAIN, artifact, data, time.time()).stdout) for _ in range(options.rounds)
        ]
        imported, loaded, first, step_s, outside = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(
            f"| {MODELS[model]} | {imported:.2f} s | {loaded:.2f} s | {first:.2f} s | {1000 * step_s:.0f} ms "
            f"| {100 * outside:.1f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()
