"""Trains from onnxruntime-training's artifacts on random images, with no torch: python onnx_train.py FOLDER
[STEPS]. Prints the seconds of each step as a JSON list."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import without_torch  # noqa: F401
from onnxruntime.training.api import CheckpointState, Module, Optimizer
from task import BATCH, CLASSES, IMAGE_SIZE, LEARNING_RATE, STEPS, THREADS


def main() -> None:
    folder = Path(sys.argv[1])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    state = CheckpointState.load_checkpoint(str(folder / "checkpoint"))
    model = Module(str(folder / "training_model.onnx"), state, session_options=options)
    optimizer = Optimizer(str(folder / "optimizer_model.onnx"), model)
    optimizer.set_learning_rate(LEARNING_RATE)
    rng = np.random.default_rng(0)
    model.train()
    seconds = []
    for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else STEPS):
        image = rng.standard_normal((BATCH, 3, IMAGE_SIZE, IMAGE_SIZE), np.float32)
        labels = rng.integers(0, CLASSES, BATCH)
        start_s = time.perf_counter()
        model(image, labels)
        optimizer.step()
        model.lazy_reset_grad()
        seconds.append(time.perf_counter() - start_s)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
