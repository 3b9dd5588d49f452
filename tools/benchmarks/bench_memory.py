"""Memory of a training step at batch 8: edge-s2a beside torch, PEFT and onnxruntime-training.

    python -m tools.benchmarks.bench_memory run [--models deit_tiny_patch16_224,resnet50] [--methods 'bias:*']
    python -m tools.benchmarks.bench_memory table

Each measurement is a fresh process that trains for three steps of AdamW on eight images of 224 px, with random weights
and two threads. Its peak resident memory is the kernel's account of the whole process (VmHWM), read from outside; the
peak of a process that only imports the same libraries is taken off for the column *above idle*. Methods:

- `bias:BITS:WEIGHTS:whole`, `bias:BITS:WEIGHTS:least`: edge-s2a as a user runs it (`pack`, `plan`, `train` on
  JPEGs), biases and head trained, the frozen weights in format WEIGHTS; once with a budget that lets the whole batch
  run at once, and once with the smallest budget that `plan` names.
- `bias:4:int8:tenth`: within a tenth of what `torch:full` was measured to need.
- `bias:4:int8:260MiB`, and so on: within that budget.
- `torch:full`, `torch:checkpointing`, `torch:bias`, `peft:lora`: rivals/torch_train.py says what they train.
- `onnxruntime:full`, `onnxruntime:bias`: onnxruntime-training 1.19.2 from its own artifacts, in a process without
  torch. The model is exported in training mode, so BatchNorm takes the batch's statistics, with attention not fused.

PEFT and onnxruntime-training have environments of their own, made under build/rivals, as are the artifacts. Each
finished measurement is one line of --results and is not repeated. To measure edge-s2a anew, delete its lines (sed -i
'/"bias:/d' docs/studies/memory.jsonl) and build/rivals/artifacts, and run again with --methods 'bias:*'.
"""

import argparse
import datetime
import fnmatch
import functools
import json
import sys
import tempfile
from pathlib import Path

from tools.benchmarks.rivals.processes import (
    RIVALS,
    Failure,
    call,
    images,
    onnxruntime_artifacts,
    packed,
    peak_of,
    python_of,
)
from tools.benchmarks.rivals.task import BATCH, LEARNING_RATE, MODELS, STEPS, THREADS
from tools.records import append_record, read_records, run_command

MIB = 1 << 20
BITS_AND_WEIGHTS = (("32", "int8"), ("4", "fp32"), ("4", "int8"), ("4", "int4"))
OURS = [f"bias:{bits}:{weights}:{budget}" for bits, weights in BITS_AND_WEIGHTS for budget in ("whole", "least")]
OURS += ["bias:4:int8:tenth"]
# Budgets that ViT-B/16 is to do with.
OURS_OF_VIT = ["bias:4:int8:260MiB", "bias:4:int8:176MiB", "bias:4:int4:136MiB"]
METHODS = [
    "torch:full", "torch:checkpointing", "torch:bias", "peft:lora", "onnxruntime:full", "onnxruntime:bias",
    *OURS, *OURS_OF_VIT,
]  # fmt: skip
LARGE_BUDGET = "16GiB"
IDLE = {
    "bias": "edge_s2a.device.training_run",
    "torch": "torch, timm",
    "peft": "torch, timm, peft",
    "onnxruntime": "onnx_train",
}


@functools.cache
def idle_bytes(program: str) -> int:
    return peak_of("imports", python_of(program), "-c", f"import {IDLE[program]}")[1]


# -- what is measured ----------------------------------------------------------------------------------


def measure_ours(model: str, bits: str, weights: str, budget: str, torch_bytes: int | None) -> dict:
    """torch_bytes: the peak of torch:full, for a tenth of it."""
    if budget == "tenth" and torch_bytes is None:
        raise Failure("planning", "torch:full has not been measured")
    artifact = packed(model, bits, weights)
    command = [sys.executable, "-m", "edge_s2a"]
    options = ["--json", "--batch-size", BATCH, "--threads", THREADS, "--memory-budget"]
    least = json.loads(call("planning", *command, "plan", artifact, *options, LARGE_BUDGET).stdout)
    size = {"whole": LARGE_BUDGET, "least": least["minimum_budget_bytes"], "tenth": torch_bytes and torch_bytes // 10}
    size = size.get(budget, budget)
    with tempfile.TemporaryDirectory() as folder:
        stdout, peak_bytes = peak_of(
            "training", *command, "train", artifact, *options, size, "--data", images(STEPS * BATCH), "--epochs", 1,
            "--lr", LEARNING_RATE, "--output", folder,
        )  # fmt: skip
    summary = json.loads(stdout)
    kept = ("predicted_peak_bytes", "micro_batch_size", "budget_bytes")
    return {"peak_bytes": peak_bytes, **{key: summary[key] for key in kept}}


def measure_torch(program: str, model: str, method: str) -> dict:
    return {"peak_bytes": peak_of("training", python_of(program), RIVALS / "torch_train.py", model, method)[1]}


def measure_onnxruntime(model: str, method: str) -> dict:
    folder = onnxruntime_artifacts(model, method)
    return {"peak_bytes": peak_of("training", python_of("onnxruntime"), RIVALS / "onnx_train.py", folder)[1]}


def measure(model: str, method: str, torch_bytes: int | None) -> dict:
    """What a line of the results says of it beside model, method and date."""
    program, *rest = method.split(":")
    try:
        if program == "bias":
            measured = measure_ours(model, *rest, torch_bytes)
        elif program == "onnxruntime":
            measured = measure_onnxruntime(model, *rest)
        else:
            measured = measure_torch(program, model, *rest)
        return measured | {"idle_bytes": idle_bytes(program)}
    except Failure as failure:
        return {"failure": failure.stage, "error": failure.error}


# -- the table -----------------------------------------------------------------------------------------


def read_results(path: Path) -> dict[tuple[str, str], dict]:
    """(model, method) -> the record of its measurement."""
    return {(record["model"], record["method"]): record for record in read_records(path)}


def run(options: argparse.Namespace) -> None:
    patterns = options.methods.split(",")
    methods = [method for method in METHODS if any(fnmatch.fnmatch(method, pattern) for pattern in patterns)]
    for model in options.models.split(","):
        for method in methods:
            records = read_results(options.results)
            if (model, method) in records or (method in OURS_OF_VIT and model != "vit_base_patch16_224"):
                continue
            torch_bytes = records.get((model, "torch:full"), {}).get("peak_bytes")
            record = {"model": model, "method": method} | measure(model, method, torch_bytes)
            record["date"] = str(datetime.date.today())
            append_record(options.results, record)
            print(f"{model} {method}: {cell(record)} {record.get('error', '')}", flush=True)


def cell(record: dict | None) -> str:
    """MiB of the whole process / above idle."""
    if record is None:
        return ""
    if "failure" in record:
        return f"no: {record['failure']}"
    above_bytes = record["peak_bytes"] - record["idle_bytes"]
    return f"{record['peak_bytes'] / MIB:.0f} / {above_bytes / MIB:.0f}"


def table(options: argparse.Namespace) -> None:
    records = read_results(options.results)
    models = [model for model in MODELS if any(key[0] == model for key in records)]
    print(f"| method | {' | '.join(MODELS[model] for model in models)} |")
    print("|---" * (len(models) + 1) + "|")
    for method in METHODS:
        if any(key[1] == method for key in records):
            print(f"| {method} | {' | '.join(cell(records.get((model, method))) for model in models)} |")
    failures = [record for record in records.values() if "failure" in record]
    if failures:
        print()
    for record in failures:
        print(f"- {record['model']}, {record['method']}, {record['failure']}: {record['error']}")
    print("\n| model | method | budget | micro-batch | predicted | measured | predicted / measured |")
    print("|---|---|---|---|---|---|---|")
    for model in models:
        for method in (*OURS, *OURS_OF_VIT):
            record = records.get((model, method), {"failure": ""})
            if "failure" not in record:
                predicted, measured = record["predicted_peak_bytes"], record["peak_bytes"]
                print(
                    f"| {MODELS[model]} | {method} | {record['budget_bytes'] / MIB:.0f} MiB "
                    f"| {record['micro_batch_size']} | {predicted / MIB:.1f} MiB | {measured / MIB:.1f} MiB "
                    f"| {predicted / measured:.3f} |"
                )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--methods", default="*", help="patterns with * and ?, separated by commas")


if __name__ == "__main__":
    run_command(__doc__, "memory.jsonl", run, table, add_run_options)
