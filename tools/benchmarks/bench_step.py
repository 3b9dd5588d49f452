"""Speed of a training step at batch 8: edge-s2a beside torch, PEFT and onnxruntime-training.

    python -m tools.benchmarks.bench_step run [--models resnet50] [--methods 'bias:*,torch:full'] [--rounds 3]
    python -m tools.benchmarks.bench_step table

Each measurement is a fresh process that trains for some steps of AdamW on batches of eight images of 224 px, with
random weights and two threads. The first step, in which programs prepare themselves, does not count. Rounds go through
all methods of a model in turn, so that what the machine does beside meets all alike; between the rounds it is measured
how fast it multiplies matrices (tools/benchmarks/rivals/product_peak.py). Methods:

- `bias:BITS:WEIGHTS:BUDGET`, `bias:BITS:WEIGHTS:BUDGET:auto`: edge-s2a as a user runs it (`pack`, `train` on JPEGs),
  biases and head trained, with a budget that lets the whole batch run at once (`whole`), or the given one; products in
  float32, or in int8 where `--compute auto` has them so. Its steps wait for decoding, where that is slower; those of
  the rivals have their images.
- `torch:full`, `torch:checkpointing`, `torch:compile`, `torch:bias`, `peft:lora`, `onnxruntime:full`,
  `onnxruntime:bias`: as in bench_memory.py; `compile` is full fine-tuning by torch.compile, and needs a compiler.

The table: median step, its spread over rounds (lowest to highest median of a round), ratios of medians, peak memory of
the process, operations of the step's products and convolutions (torch's count for full fine-tuning and for biases
alone), and the share of the machine's float32 peak that this is. Below it, the limit: these operations at the machine's
peak, with nothing else to do.
"""

import argparse
import datetime
import fnmatch
import json
import statistics
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
from tools.benchmarks.rivals.task import BATCH, LEARNING_RATE, MODELS, THREADS
from tools.records import append_record, read_records, run_command

MIB = 1 << 20
STEPS = 5  # of which the first does not count
METHODS = [
    "torch:full", "torch:checkpointing", "torch:compile", "torch:bias", "peft:lora", "onnxruntime:full",
    "onnxruntime:bias", "bias:4:int8:whole", "bias:4:int8:whole:auto", "bias:4:int8:260MiB:auto",
]  # fmt: skip
ONLY_OF_VIT = "bias:4:int8:260MiB:auto"  # the memory target of ViT-B/16
WITHOUT_LINEAR_LAYERS = ("resnet50", "mobilenetv2_100")
BUDGETS = {"whole": "16GiB"}
PEAK = "product peak"
OURS = "bias:4:int8:whole"


def measure_ours(model: str, bits: str, weights: str, budget: str, compute: str = "fp32") -> tuple[list[float], int]:
    artifact = packed(model, bits, weights, compute)
    with tempfile.TemporaryDirectory() as folder:
        _, peak_bytes = peak_of(
            "training", sys.executable, "-m", "edge_s2a", "train", artifact, "--data", images(STEPS * BATCH),
            "--batch-size", BATCH, "--epochs", 1, "--lr", LEARNING_RATE, "--threads", THREADS,
            "--memory-budget", BUDGETS.get(budget, budget), "--output", folder,
        )  # fmt: skip
        lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    return [line["seconds"] for line in lines if line["kind"] == "step"], peak_bytes


def measure(model: str, method: str) -> dict:
    """What a line of the results says of it beside model, method, round and date."""
    program, *rest = method.split(":")
    try:
        if program == "bias":
            seconds, peak_bytes = measure_ours(model, *rest)
        elif program == "onnxruntime":
            command = [python_of(program), RIVALS / "onnx_train.py", onnxruntime_artifacts(model, *rest)]
            stdout, peak_bytes = peak_of("training", *command, STEPS)
            seconds = json.loads(stdout)
        else:
            command = [python_of(program), RIVALS / "torch_train.py", model, *rest]
            stdout, peak_bytes = peak_of("training", *command, STEPS)
            seconds = json.loads(stdout)
    except Failure as failure:
        return {"failure": failure.stage, "error": failure.error}
    return {"seconds": [round(value, 4) for value in seconds[1:]], "peak_bytes": peak_bytes}


def run(options: argparse.Namespace) -> None:
    patterns = options.methods.split(",")
    methods = [method for method in METHODS if any(fnmatch.fnmatch(method, pattern) for pattern in patterns)]
    for model in options.models.split(","):
        known = {(record["model"], record["method"]) for record in read_records(options.results)}
        if (model, "flops") not in known:
            flops = json.loads(call("counting", sys.executable, RIVALS / "flops.py", model).stdout)
            append_record(options.results, {"model": model, "method": "flops", **flops})
        for number in range(options.rounds):
            peak = json.loads(call("measuring", sys.executable, RIVALS / "product_peak.py").stdout)
            append_record(options.results, {"model": model, "method": PEAK, "round": number, **peak})
            for method in methods:
                if method == ONLY_OF_VIT and model != "vit_base_patch16_224":
                    continue
                if method.endswith(":auto") and model in WITHOUT_LINEAR_LAYERS:
                    continue
                record = {"model": model, "method": method, "round": number} | measure(model, method)
                record["date"] = str(datetime.date.today())
                append_record(options.results, record)
                print(f"{model} {method} round {number}: {record.get('seconds') or record['error']}", flush=True)


# -- the table -----------------------------------------------------------------------------------------


def table(options: argparse.Namespace) -> None:
    records = read_records(options.results)
    for model in (model for model in MODELS if any(record["model"] == model for record in records)):
        print_model(MODELS[model], [record for record in records if record["model"] == model])


def print_model(name: str, records: list[dict]) -> None:
    (flops,) = (record for record in records if record["method"] == "flops")
    peaks = [record for record in records if record["method"] == PEAK]
    fp32, int8 = (max(record[kind] for record in peaks) for kind in ("fp32", "int8"))
    print(
        f"**{name}**: products at {fp32 / 1e9:.0f} (float32) and {int8 / 1e9:.0f} (int8) billion operations a second\n"
    )
    print("| method | step | rounds | against ours | peak memory | operations | share of the float32 peak |")
    print("|---|---|---|---|---|---|---|")
    medians = {method: medians_of_rounds(records, method) for method in METHODS}
    ours = statistics.median(medians[OURS]) if medians[OURS] else None
    for method in METHODS:
        mine = [record for record in records if record["method"] == method]
        if not medians[method]:
            failed = [f"no: {record['failure']}: {record['error'][:80]}" for record in mine[:1]]
            print("".join(f"| {method} | {text} | | | | | |\n" for text in failed), end="")
            continue
        step_s = statistics.median(medians[method])
        peak_bytes = max(record["peak_bytes"] for record in mine if "peak_bytes" in record)
        # What a method computes again, or beside the layers, is not counted.
        operations = flops["bias" if "bias" in method else "full"] if "lora" not in method else None
        counted = f"{operations / 1e9:.0f} G | {100 * operations / step_s / fp32:.0f} %" if operations else "|"
        ratio = f"{step_s / ours:.2f}" if ours else ""
        print(
            f"| {method} | {1000 * step_s:.0f} ms | {1000 * min(medians[method]):.0f} to "
            f"{1000 * max(medians[method]):.0f} | {ratio} | {peak_bytes / MIB:.0f} MiB | {counted} |"
        )
    least_s = {kind: flops["bias"] / peak for kind, peak in (("float32", fp32), ("int8", int8))}
    full_s = statistics.median(medians["torch:full"]) if medians["torch:full"] else None
    for kind, seconds in least_s.items():
        limit = f", {full_s / seconds:.1f} times faster than torch:full" if full_s else ""
        print(f"\nThe operations with biases alone take {1000 * seconds:.0f} ms at the {kind} peak{limit}.", end="")
    print("\n")


def medians_of_rounds(records: list[dict], method: str) -> list[float]:
    return [
        statistics.median(record["seconds"]) for record in records if record["method"] == method and "seconds" in record
    ]


def add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--methods", default="*", help="patterns with * and ?, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)


if __name__ == "__main__":
    run_command(__doc__, "speed.jsonl", run, table, add_run_options)
