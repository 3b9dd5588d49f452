"""Learning study: what one pass and a closed form reach, and training that starts from it, against full fine-tuning in
torch.

    python -m tools.studies.learning run [--methods learn,both,full] [--counts 5,20,50,all] [--splits 0,1,2]
    python -m tools.studies.learning table

`learn` is `edge-s2a learn` on an artifact without an adapter, int8 weights, default options: nothing is chosen but by
the product itself, from training images. `full` is full fine-tuning as in tools/studies/accuracy.py, at the rate that
was best there by *validation* accuracy on split 0, so it is favoured. The images of a split are the first `count` of
each class after `random.Random(split).shuffle`; the order of training is drawn from the same number. Accuracy is that
on all other images of PACS, and on the validation folder of flowers5.

Which blocks and statistics are tapped was chosen by `python -m tools.studies.taps`.

Each finished run is one line of --results and is not repeated. Weights and images are looked for in ../shared, or where
EDGE_S2A_SHARED points.
"""

import argparse
import datetime
import statistics
import time
from pathlib import Path

import torch

from tools.records import append_record, read_records, run_command
from tools.studies.accuracy import (
    MEMORY_BUDGET,
    MODELS,
    PAIRS,
    RATES,
    RECOMMENDED,
    SHARED,
    WORK,
    chosen_rate,
    edge_s2a,
    image_folders,
    packed,
    train_in_torch,
)

METHODS = ("learn", "both", "full")
ACCURACY = Path("docs/studies/accuracy.jsonl")


def artifact_of(model_key: str) -> Path:
    name, weights, kwargs, mean = MODELS[model_key]
    output = WORK / "artifacts" / f"{model_key}-none.s2a"
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        options = ["--model-kwargs", *(f"{key}={value}" for key, value in kwargs.items())] if kwargs else []
        options += ["--mean", *mean, "--std", *mean] if mean else []
        weights_options = ["--weights", SHARED / "weights" / weights, "--output", output]
        edge_s2a("pack", name, "--adapter", "none", *weights_options, *options)
    return output


def learn(model_key: str, data: str, purpose: str, threads: int) -> dict:
    folders = image_folders(data, purpose)
    knowledge = WORK / "knowledge" / f"{model_key}-{data}-{purpose}.safetensors"
    summary = edge_s2a(
        "learn", artifact_of(model_key), "--data", folders / "train", "--val-data", folders / "val", "--output",
        knowledge, "--threads", threads,
    )  # fmt: skip
    kept = ("images", "left_out_accuracy", "calibration_error", "temperature", "peak_rss_bytes")
    return {"accuracy": summary["val_accuracy"], "loss": summary["val_loss"]} | {key: summary[key] for key in kept}


def both(pair: str, model_key: str, data: str, purpose: str, split: int, threads: int) -> dict:
    adapter = RECOMMENDED[model_key]
    folders = image_folders(data, purpose)
    artifact, run_folder = (
        packed(model_key, data, f"{adapter}:4", 0),
        WORK / "runs" / f"both-{model_key}-{data}-{purpose}",
    )
    rate = chosen_rate(ACCURACY, pair, f"{adapter}:4", threads)
    # Without validation images the adapter of the last epoch is kept, as in the accuracy study.
    summary = edge_s2a(
        "train", artifact, "--data", folders / "train", "--output", run_folder, "--start", "learned",
        "--memory-budget", MEMORY_BUDGET, "--lr", rate, "--seed", split, "--threads", threads,
    )  # fmt: skip
    judged = edge_s2a(
        "eval", artifact, "--adapter", run_folder / "best.safetensors", "--data", folders / "val", "--threads", threads
    )
    compared = summary["compared"]
    return {"accuracy": judged["accuracy"], "loss": judged["loss"], "lr": rate} | {
        key: compared[key] for key in ("share", "images", "learned_accuracy", "trained_accuracy")
    }


def best_rate(pair: str) -> float:
    """Of full fine-tuning on split 0, by validation accuracy."""
    records = [
        record
        for record in read_records(ACCURACY)
        if (record["pair"], record["method"], record["purpose"], record["seed"]) == (pair, "full", "result", 0)
    ]
    return max(records, key=lambda record: record["accuracy"])["lr"] if records else RATES["full"][1]


def result_of(path: Path, pair: str, method: str, count: str, split: int, threads: int) -> dict:
    """The record of a run, which is made if there is none yet."""
    key = {"pair": pair, "method": method, "count": count, "split": split}
    for record in read_records(path):
        if all(record[name] == value for name, value in key.items()):
            return record
    purpose = f"split{split}-{count}"
    started_s = time.monotonic()
    model_key, data = pair.split("/")
    if method == "learn":
        measured = learn(model_key, data, purpose, threads)
    elif method == "both":
        measured = both(pair, model_key, data, purpose, split, threads)
    else:
        found = train_in_torch(model_key, data, "full", purpose, best_rate(pair), split)
        measured = {"accuracy": found["accuracy"], "loss": found["loss"]}
    record = key | measured | {"seconds": time.monotonic() - started_s, "date": str(datetime.date.today())}
    append_record(path, record)
    print(f"{pair} {method} {count} split {split}: {100 * record['accuracy']:.1f} %", flush=True)
    return record


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    for split in map(int, options.splits.split(",")):
        for pair in options.pairs.split(","):
            for method in options.methods.split(","):
                for count in options.counts.split(","):
                    result_of(options.results, pair, method, count, split, options.threads)


def table(options: argparse.Namespace) -> None:
    records = read_records(options.results)
    counts = list(dict.fromkeys(record["count"] for record in records))
    print("| | " + " | ".join(f"{method}, {count} a class" for count in counts for method in METHODS) + " |")
    print("|---" * (1 + len(METHODS) * len(counts)) + "|")
    means: dict[tuple[str, str], list[float]] = {}
    for pair in PAIRS:
        cells = []
        for count in counts:
            for method in METHODS:
                found = [
                    100 * record["accuracy"]
                    for record in records
                    if (record["pair"], record["method"], record["count"]) == (pair, method, count)
                ]
                if found:
                    means.setdefault((count, method), []).append(statistics.mean(found))
                cells.append(cell(found))
        print(f"| {pair.replace('/', ', ')} | {' | '.join(cells)} |")
    whole = {key: values for key, values in means.items() if len(values) == len(PAIRS)}
    cells = [
        f"{statistics.mean(whole[count, method]):.1f}" if (count, method) in whole else ""
        for count in counts
        for method in METHODS
    ]
    print(f"| mean | {' | '.join(cells)} |")


def cell(accuracies: list[float]) -> str:
    """Mean, deviation and number of the splits."""
    if not accuracies:
        return ""
    deviation = f" ± {statistics.stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
    return f"{statistics.mean(accuracies):.1f}{deviation} ({len(accuracies)})"


def add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs", default=",".join(PAIRS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--counts", default="20")
    parser.add_argument("--splits", default="0,1,2")
    parser.add_argument("--threads", type=int, default=2)


if __name__ == "__main__":
    run_command(__doc__, "learning.jsonl", run, table, add_run_options)
