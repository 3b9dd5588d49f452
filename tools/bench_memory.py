"""Memory of a training step at batch 8: edge-s2a beside torch, PEFT and onnxruntime-training.

    python tools/bench_memory.py run [--models deit_tiny_patch16_224,resnet50] [--methods 'bias:*,torch:full']
    python tools/bench_memory.py table

Each measurement is a fresh process that trains for three steps of AdamW on eight images of 224 px, with random weights
and two threads. Its peak resident memory is the kernel's account of the whole process (VmHWM), read from outside; the
peak of a process that only imports the same libraries is taken off for the column *above idle*. Methods:

- `bias:BITS:WEIGHTS:whole`, `bias:BITS:WEIGHTS:least`: edge-s2a as a user runs it (`pack`, `plan`, `train` on
  JPEGs), biases and head trained, the frozen weights in format WEIGHTS; once with a budget that lets the whole batch
  run at once, and once with the smallest budget that `plan` names.
- `bias:4:int8:tenth`: within a tenth of what `torch:full` was measured to need.
- `bias:4:int8:260MiB`, and so on: within that budget.
- `torch:full`, `torch:checkpointing`, `torch:bias`, `peft:lora`: tools/rivals/torch_train.py says what they train.
- `onnxruntime:full`, `onnxruntime:bias`: onnxruntime-training 1.19.2 from its own artifacts, in a process without
  torch. The model is exported in training mode, so BatchNorm takes the batch's statistics, with attention not fused.

PEFT and onnxruntime-training have environments of their own, made under build/memory, as are the artifacts. Each
finished measurement is one line of --results and is not repeated. To measure edge-s2a anew, delete its lines (sed -i
'/"bias:/d' docs/studies/memory.jsonl) and build/memory/artifacts, and run again with --methods 'bias:*'.
"""

import argparse
import datetime
import fnmatch
import functools
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from records import PROJECT, append_record, read_records, run_verb
from rivals.task import BATCH, CLASSES, LEARNING_RATE, STEPS, THREADS

RIVALS = PROJECT / "tools" / "rivals"
WORK = PROJECT / "build" / "memory"
MIB = 1 << 20
MODELS = {
    "vit_base_patch16_224": "ViT-B/16",
    "deit_tiny_patch16_224": "DeiT-Tiny",
    "swin_tiny_patch4_window7_224": "Swin-T",
    "resnet50": "ResNet-50",
    "mobilenetv2_100": "MobileNetV2",
}
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
# What an environment holds beside what its name says, and whether it sees this one's packages.
ENVIRONMENTS = {
    "peft": (["peft"], True),
    # The newest onnx whose models it reads; numpy 1 is what it was built for.
    "onnxruntime": (["onnxruntime-training==1.19.2", "onnx==1.16.2", "numpy<2", "cerberus", "h5py"], False),
}
IDLE = {
    "bias": "edge_s2a.device.trainer",
    "torch": "torch, timm",
    "peft": "torch, timm, peft",
    "onnxruntime": "onnx_train",
}


class Failure(Exception):
    """What could not be measured: the stage that failed, in a word, and the error."""

    def __init__(self, stage: str, stderr: str):
        super().__init__(stage)
        self.stage, self.error = stage, last_error(stderr)


def last_error(stderr: str) -> str:
    """The last exception of a program's standard error in one line, without this machine's paths."""
    lines = [line for line in stderr.splitlines() if line.strip() and not line.isdigit()]  # the launcher's is a number
    code = [number for number, line in enumerate(lines) if line.startswith("  ")]
    text = " ".join(" ".join(lines[code[-1] + 1 :] if code else lines[-1:]).split())
    return text.replace(f"{PROJECT}/", "")[:400]


# -- processes -----------------------------------------------------------------------------------------


def child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{RIVALS}", "OMP_NUM_THREADS": str(THREADS)}


def call(stage: str, *command) -> subprocess.CompletedProcess:
    """Raises Failure unless the command ends well."""
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, cwd=PROJECT, env=child_environment(), check=False
    )
    if done.returncode:
        raise Failure(stage, done.stderr)
    return done


def peak_of(stage: str, *command) -> tuple[str, int]:
    """(standard output, peak resident bytes) of a command, which runs under a launcher: see there why."""
    done = call(stage, sys.executable, "-S", "-E", PROJECT / "tests" / "launcher.py", *command)
    return done.stdout, int(done.stderr.splitlines()[-1])


@functools.cache
def python_of(program: str) -> Path:
    """The interpreter of the environment that `program` has, which is made if it has none of its own yet."""
    if program not in ENVIRONMENTS:
        return Path(sys.executable)
    requirements, sees_host = ENVIRONMENTS[program]
    folder = WORK / "environments" / program
    python = folder / "bin" / "python"
    stamp = folder / "complete"
    if not stamp.exists():
        call("environment", sys.executable, "-m", "venv", "--clear", folder)
        if sees_host:
            own = call("environment", python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
            Path(own.stdout.strip(), "host.pth").write_text(sysconfig.get_path("purelib") + "\n")
        call("environment", python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
        stamp.touch()
    return python


@functools.cache
def idle_bytes(program: str) -> int:
    return peak_of("imports", python_of(program), "-c", f"import {IDLE[program]}")[1]


# -- what is measured ----------------------------------------------------------------------------------


@functools.cache
def images() -> Path:
    """<class>/<number>.jpg: as many as STEPS batches, of the size of small photos."""
    folder = WORK / "images"
    rng = np.random.default_rng(0)
    for number in range(STEPS * BATCH):
        file = folder / f"class{number % CLASSES}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (13, 15, 3), np.uint8)
        Image.fromarray(coarse).resize((300, 260)).save(file)
    return folder


def packed(model: str, bits: str, weights: str) -> Path:
    output = WORK / "artifacts" / f"{model}-{bits}-{weights}.s2a"
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        options = ["--num-classes", CLASSES, "--saved-bits", bits, "--weight-format", weights, "--output", output]
        call("packing", sys.executable, "-m", "edge_s2a", "pack", model, *options)
    return output


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
            "training", *command, "train", artifact, *options, size, "--data", images(), "--epochs", 1,
            "--lr", LEARNING_RATE, "--output", folder,
        )  # fmt: skip
    summary = json.loads(stdout)
    kept = ("predicted_peak_bytes", "micro_batch_size", "budget_bytes")
    return {"peak_bytes": peak_bytes, **{key: summary[key] for key in kept}}


def measure_torch(program: str, model: str, method: str) -> dict:
    return {"peak_bytes": peak_of("training", python_of(program), RIVALS / "torch_train.py", model, method)[1]}


def measure_onnxruntime(model: str, method: str) -> dict:
    python, folder = python_of("onnxruntime"), WORK / "onnxruntime" / model
    if not (folder / "model.onnx").exists():
        call("export", sys.executable, RIVALS / "onnx_export.py", model, folder)
    call("artifacts", python, RIVALS / "onnx_artifacts.py", folder, method)
    return {"peak_bytes": peak_of("training", python, RIVALS / "onnx_train.py", folder / method)[1]}


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
    run_verb(__doc__, "memory.jsonl", run, table, add_run_options)
