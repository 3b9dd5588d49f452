"""Accuracy study: few-shot fine-tuning on the device runtime, against full fine-tuning and a linear probe in torch.

    python tools/study_accuracy.py run --pairs deit_tiny/flowers5 --methods full,linear,bias:4,bias+lowrank:4
    python tools/study_accuracy.py table

A method is `full` or `linear` (torch, exact float32), or ADAPTER:BITS or ADAPTER:BITS:LEVELS (packed and trained by the
command line of edge-s2a, int8 frozen weights). Everything else is alike: the same pixels (decoded by the device's own
code), 20 images a class, 15 epochs, batches of 16, AdamW with weight decay 0.01 on matrices, one epoch of warm-up, then
cosine, label smoothing 0.1, no augmentation. Accuracy is that after the last epoch, on all validation images.

Learning rates are chosen for each pair and adapter on training images alone: 15 of each class's 20 train, 5 judge,
seed 0, best accuracy, ties by loss. All bits and levels of an adapter use the rate chosen at 4 bits. Full
fine-tuning freezes BatchNorm's statistics, for batches of 16 are too few to estimate them. The column *against full*
compares with the best of the rates of full fine-tuning that were run (`--lr` runs others than the chosen one).

Each finished run is one line of --results and is not repeated, so a study can be stopped, continued and extended.
Weights and images are looked for in ../shared, or where EDGE_S2A_SHARED points.
"""

import argparse
import datetime
import functools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from edge_s2a.device.data import load_pixels, open_dataset
from edge_s2a.device.schedule import learning_rate
from edge_s2a.host.capture import soft_cross_entropy
from edge_s2a.host.golden import normalized
from edge_s2a.host.model import classifier_names, create_model, preprocessing_of

PROJECT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("EDGE_S2A_SHARED", PROJECT.parent / "shared"))
WORK = PROJECT / "build" / "study"
MODELS = {
    "deit_tiny": ("deit_tiny_patch16_224", "deit_tiny_patch16_224.safetensors", {}, None),
    "mobilenetv2": ("mobilenetv2_100", "mobilenetv2_100_same.safetensors", {"pad_type": "same"}, (0.5, 0.5, 0.5)),
}
DATA = {"flowers5": 5, "pacs_cartoon": 7}
PAIRS = [f"{model}/{data}" for model in MODELS for data in DATA]
RATES = {"full": (1e-4, 3e-4, 1e-3), "linear": (1e-3, 3e-3, 1e-2, 3e-2), "adapter": (1e-3, 3e-3, 1e-2)}
EPOCHS, BATCH, WEIGHT_DECAY, SMOOTHING = 15, 16, 0.01, 0.1
PER_CLASS, HELD_OUT = 20, 5
MEMORY_BUDGET = "512MiB"


# -- data ----------------------------------------------------------------------------------------------


def split(data: str, purpose: str) -> Path:
    """WORK/<data>/<purpose>/{train,val}/<class>: links to the images that a run trains on and is judged by."""
    folder = WORK / data / purpose
    if folder.is_dir():
        return folder
    source = SHARED / "data" / data
    has_split = (source / "train").is_dir()
    for class_folder in sorted(path for path in (source / "train" if has_split else source).iterdir() if path.is_dir()):
        files = sorted(path for path in class_folder.iterdir() if path.is_file())
        random.Random(0).shuffle(files)
        shots, rest = files[:PER_CLASS], files[PER_CLASS:]
        if has_split:
            rest = sorted((source / "val" / class_folder.name).iterdir())
        if purpose == "choice":
            shots, rest = shots[:-HELD_OUT], shots[-HELD_OUT:]
        for part, chosen in (("train", shots), ("val", rest)):
            (folder / part / class_folder.name).mkdir(parents=True)
            for file in chosen:
                (folder / part / class_folder.name / file.name).symlink_to(file.resolve())
    return folder


@functools.cache
def pixels(model_key: str, data: str, purpose: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (images, height, width, 3) and labels int64 (images,), as the device decodes them."""
    preprocessing = preprocessing_of(new_model(model_key, data, 0), None)
    dataset = open_dataset(split(data, purpose), part, None, DATA[data])
    images = np.stack([load_pixels(dataset, index, preprocessing) for index in range(len(dataset.samples))])
    return images, np.array([sample.label for sample in dataset.samples])


# -- torch ---------------------------------------------------------------------------------------------


def new_model(model_key: str, data: str, seed: int) -> torch.nn.Module:
    name, weights, kwargs, _ = MODELS[model_key]
    return create_model(name, kwargs, DATA[data], None, SHARED / "weights" / weights, False, seed)


def train_in_torch(model_key: str, data: str, method: str, purpose: str, lr: float, seed: int) -> dict:
    model = new_model(model_key, data, seed)
    mean = MODELS[model_key][3]
    preprocessing = preprocessing_of(model, None, mean, mean)
    heads = tuple(f"{name}." for name in classifier_names(model))
    trained = {n: p for n, p in model.named_parameters() if method == "full" or n.startswith(heads)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    groups = [
        {"params": [p for p in trained.values() if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in trained.values() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, eps=1e-6)
    images, labels = pixels(model_key, data, purpose, "train")
    classes = DATA[data]
    steps_per_epoch = -(-len(labels) // BATCH)
    rng = np.random.default_rng(seed)
    step = 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(labels))
        for start in range(0, len(labels), BATCH):
            chosen = order[start : start + BATCH]
            target = torch.eye(classes)[labels[chosen]] * (1 - SMOOTHING) + SMOOTHING / classes
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, lr, steps_per_epoch, steps_per_epoch * EPOCHS)
            loss = soft_cross_entropy(model(normalized(images[chosen], preprocessing)), target / len(chosen))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    images, labels = pixels(model_key, data, purpose, "val")
    with torch.no_grad():
        logits = torch.cat([model(normalized(images[i : i + 32], preprocessing)) for i in range(0, len(images), 32)])
    return {
        "accuracy": float((logits.argmax(-1).numpy() == labels).mean()),
        "loss": float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))),
        "trainable_parameters": sum(p.numel() for p in trained.values()),
        "total_parameters": sum(p.numel() for p in model.parameters()),
        "saved_bytes_per_image": None,
    }


# -- the device runtime, as a user runs it -------------------------------------------------------------


def edge_s2a(*arguments) -> dict:
    command = [sys.executable, "-m", "edge_s2a", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout)


def packed(model_key: str, data: str, method: str, seed: int) -> Path:
    adapter, bits, *levels = method.split(":")
    name, weights, kwargs, mean = MODELS[model_key]
    output = WORK / "artifacts" / f"{model_key}-{data}-{method.replace(':', '-')}-{seed}.s2a"
    if output.exists():
        return output
    options = ["--adapter", adapter, "--saved-bits", bits, "--seed", seed, "--num-classes", DATA[data]]
    options += ["--levels", levels[0]] if levels else []
    options += ["--model-kwargs", *(f"{key}={value}" for key, value in kwargs.items())] if kwargs else []
    options += ["--mean", *mean, "--std", *mean] if mean else []
    if bits == "auto":
        options += ["--calibration", split(data, "result") / "train"]
    edge_s2a("pack", name, "--weights", SHARED / "weights" / weights, "--output", output, *options)
    return output


def train_on_device(model_key: str, data: str, method: str, purpose: str, lr: float, seed: int, threads: int) -> dict:
    artifact = packed(model_key, data, method, seed)
    run = WORK / "runs" / f"{artifact.stem}-{purpose}-{lr}"
    # One validation image: accuracy is measured once, after the last epoch.
    edge_s2a(
        "train", artifact, "--data", split(data, purpose) / "train", "--val-data", one_image_a_class(data),
        "--memory-budget", MEMORY_BUDGET, "--epochs", EPOCHS, "--batch-size", BATCH, "--lr", lr, "--seed", seed,
        "--weight-decay", WEIGHT_DECAY, "--label-smoothing", SMOOTHING, "--threads", threads, "--output", run,
    )  # fmt: skip
    judged = edge_s2a(
        "eval", artifact, "--adapter", run / "adapter.safetensors", "--data", split(data, purpose) / "val",
        "--threads", threads,
    )  # fmt: skip
    shown = edge_s2a("inspect", artifact)
    kept = ("trainable_parameters", "total_parameters", "saved_bytes_per_image")
    return {"accuracy": judged["accuracy"], "loss": judged["loss"], **{key: shown[key] for key in kept}}


def one_image_a_class(data: str) -> Path:
    folder = WORK / data / "one"
    if not folder.is_dir():
        for class_folder in sorted((split(data, "result") / "train").iterdir()):
            (folder / class_folder.name).mkdir(parents=True)
            image = min(class_folder.iterdir())
            (folder / class_folder.name / image.name).symlink_to(image.resolve())
    return folder


# -- the study -----------------------------------------------------------------------------------------


def read_results(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def result_of(path: Path, pair: str, method: str, purpose: str, lr: float, seed: int, threads: int) -> dict:
    """The record of a run, which is made if there is none yet."""
    key = {"pair": pair, "method": method, "purpose": purpose, "lr": lr, "seed": seed}
    for record in read_results(path):
        if all(record[name] == value for name, value in key.items()):
            return record
    started = time.monotonic()
    in_torch = method in ("full", "linear")
    measured = (
        train_in_torch(*pair.split("/"), method, purpose, lr, seed)
        if in_torch
        else train_on_device(*pair.split("/"), method, purpose, lr, seed, threads)
    )
    record = key | measured | {"seconds": time.monotonic() - started, "date": str(datetime.date.today())}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(f"{pair} {method} {purpose} lr {lr} seed {seed}: {100 * record['accuracy']:.1f} %", flush=True)
    return record


def chosen_rate(path: Path, pair: str, method: str, threads: int) -> float:
    """By accuracy, then loss, on the images held out of training."""
    if method not in ("full", "linear"):
        method = f"{method.split(':')[0]}:4"
    rates = RATES.get(method, RATES["adapter"])
    records = [result_of(path, pair, method, "choice", rate, 0, threads) for rate in rates]
    return max(records, key=lambda record: (record["accuracy"], -record["loss"]))["lr"]


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    for pair in options.pairs.split(","):
        for method in options.methods.split(","):
            rate = options.lr or chosen_rate(options.results, pair, method, options.threads)
            for seed in map(int, options.seeds.split(",")):
                result_of(options.results, pair, method, "result", rate, seed, options.threads)


def best_mean(records: list[dict]) -> float | None:
    """The mean accuracy at the rate where it is highest: a rate chosen on 25 images may be a bad one, and the
    measure to pass should not profit from that."""
    rates = {record["lr"] for record in records}
    means = [statistics.mean(r["accuracy"] for r in records if r["lr"] == rate) for rate in rates]
    return max(means, default=None)


def table(options: argparse.Namespace) -> None:
    records = [record for record in read_results(options.results) if record["purpose"] == "result"]
    for pair in PAIRS:
        of_pair = [record for record in records if record["pair"] == pair]
        if not of_pair:
            continue
        full = best_mean([record for record in of_pair if record["method"] == "full"])
        print(f"\n**{pair.replace('/', ', ')}**\n")
        print("| method | trained | accuracy | against full | seeds | rate | saved an image |")
        print("|---|---|---|---|---|---|---|")
        runs = {(record["method"], record["lr"]) for record in of_pair}
        for method, rate in sorted(runs, key=lambda run: (run[0] not in ("full", "linear"), *run)):
            rows = [record for record in of_pair if (record["method"], record["lr"]) == (method, rate)]
            accuracy = [100 * record["accuracy"] for record in rows]
            deviation = f" ± {statistics.stdev(accuracy):.1f}" if len(accuracy) > 1 else ""
            share = 100 * rows[0]["trainable_parameters"] / rows[0]["total_parameters"]
            against = f"{statistics.mean(accuracy) - 100 * full:+.1f}" if full else ""
            saved = rows[0]["saved_bytes_per_image"]
            print(
                f"| {method} | {share:.2f} % | {statistics.mean(accuracy):.1f}{deviation} | {against} | {len(rows)} "
                f"| {rate:g} | {f'{saved / 1e6:.2f} MB' if saved is not None else ''} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for function in (run, table):
        verb = verbs.add_parser(function.__name__)
        verb.set_defaults(function=function)
        verb.add_argument("--results", type=Path, default=PROJECT / "docs" / "studies" / "accuracy.jsonl")
        if function is run:
            verb.add_argument("--pairs", default=",".join(PAIRS))
            verb.add_argument("--methods", required=True)
            verb.add_argument("--seeds", default="0,1,2")
            verb.add_argument("--lr", type=float, help="instead of choosing one")
            verb.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.function(options)


if __name__ == "__main__":
    main()
