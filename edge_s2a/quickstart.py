"""The quick start, end to end: packs the small ViT that ships with the project, teaches it real handwriting in one
pass, fine-tunes it within a memory budget, and compares both with a linear probe."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from edge_s2a.artifact.adapter import save_adapter
from edge_s2a.artifact.archive import ADAPTER, Artifact
from edge_s2a.artifact.tensors import decode
from edge_s2a.device.data.dataset import open_dataset
from edge_s2a.device.data.pixels import load_pixels
from edge_s2a.errors import UserError
from edge_s2a.host.golden import normalized
from edge_s2a.host.sources.preprocessing import preprocessing_of
from edge_s2a.host.sources.timm import create_model

# Beside the package, in a clone or an unpacked sdist: 2.7 MB that no device needs are no part of the wheel.
DEMO = Path(__file__).parent.parent / "demo"
WEIGHTS, DESCRIPTION = DEMO / "vit_demo.safetensors", DEMO / "vit_demo.json"
TRAIN_PER_CLASS = 30
EPOCHS = 12
CLASSES = 10


def run_quickstart(output: Path, memory_budget: str, as_json: bool, quiet: bool) -> int:
    """Prints accuracy before, after learning in one pass and after training, the time of both, trainable share, and
    predicted and measured peak memory."""

    def say(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr, flush=True)

    def command(*arguments: object) -> dict[str, Any]:
        return run_command(*arguments, *(["--quiet"] if quiet else []))

    if not WEIGHTS.exists():
        raise UserError(
            f"the embedded model is not in {DEMO}: the wheel does not hold it; "
            "run bash tools/quickstart.sh in a clone of the project or in its unpacked sdist"
        )
    data, artifact, run = output / "digits", output / "demo.s2a", output / "run"
    model = json.loads(DESCRIPTION.read_text(encoding="utf-8"))
    say(f"1. writing scikit-learn's handwritten digits to {data}")
    write_digits(data)
    say("2. packing the embedded ViT, which has seen rendered letters and signs but no digit")
    kwargs = [f"{key}={value}" for key, value in model["model_kwargs"].items()]
    command("pack", model["model"], "--model-kwargs", *kwargs, "--weights", WEIGHTS, "--num-classes", CLASSES,
            "--output", artifact)  # fmt: skip
    say(f"3. learning in one pass within {memory_budget} for the whole process")
    knowledge = output / "knowledge.safetensors"
    learned = command("learn", artifact, "--data", data, "--output", knowledge, "--memory-budget", memory_budget)
    say("4. fine-tuning biases and head within the same budget")
    settings = ["--memory-budget", memory_budget, "--batch-size", 32, "--lr", 5e-3]
    untrained = output / "untrained.safetensors"
    write_initial_adapter(artifact, untrained)
    before = command("eval", artifact, "--adapter", untrained, "--data", data)
    summary = command("train", artifact, "--data", data, "--output", run, "--epochs", EPOCHS, *settings)
    say("5. a linear probe on the frozen features, for comparison")
    result = {
        "accuracy_before": before["accuracy"],
        "learned_accuracy": learned["val_accuracy"],
        "learned_seconds": learned["seconds"],
        "learned_peak_rss_bytes": learned["peak_rss_bytes"],
        "knowledge": learned["output"],
        "accuracy_after": summary["val_accuracy"],
        "linear_probe_accuracy": linear_probe(model, data),
        **{key: summary[key] for key in (
            "trainable_parameters", "total_parameters", "predicted_peak_bytes", "peak_rss_bytes",
            "budget_bytes", "seconds", "output",
        )},
        "artifact": str(artifact),
    }  # fmt: skip
    if as_json or not quiet:
        report(result, as_json)
    return 0


def run_command(*arguments: object) -> dict[str, Any]:
    """Runs a command as a user would, in a process of its own, and returns its JSON."""
    words = [sys.executable, "-m", "edge_s2a", *map(str, arguments), "--json"]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(words[2:])} ended with exit code {done.returncode}; see above")
    return json.loads(done.stdout)


def write_digits(folder: Path) -> None:
    """The 1797 digits of load_digits (8x8, 17 grey levels) as FOLDER/{train,val}/<digit>/<number>.png."""
    digits = load_digits()
    seen = np.zeros(CLASSES, int)
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "train" if seen[label] < TRAIN_PER_CLASS else "val"
        seen[label] += 1
        place = folder / split / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * (255 / 16)).astype(np.uint8)).save(place / f"{number:04d}.png")


def write_initial_adapter(path: Path, output: Path) -> None:
    """The adapter that the artifact starts from, as a file that `eval` takes."""
    artifact = Artifact(path)
    initial, _ = decode(artifact.read(ADAPTER), str(path))
    save_adapter(output, initial, artifact.manifest, artifact.manifest.class_names())


@torch.inference_mode()
def linear_probe(description: dict[str, Any], data: Path) -> float:
    """Validation accuracy of logistic regression on the frozen model's features."""
    model: Any = create_model(description["model"], description["model_kwargs"], CLASSES, None, WEIGHTS, False, 0)
    preprocessing = preprocessing_of(model, None)
    sets = []
    for split in ("train", "val"):
        dataset = open_dataset(data, split, None, CLASSES)
        pixels = np.stack([load_pixels(dataset, i, preprocessing) for i in range(len(dataset))])
        features = model.forward_head(model.forward_features(normalized(pixels, preprocessing)), pre_logits=True)
        sets.append((features.numpy(), dataset.labels.tolist()))
    probe = LogisticRegression(max_iter=2000).fit(*sets[0])
    return float(probe.score(*sets[1]))


def report(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    mib = {key: result[key] / 2**20 for key in ("predicted_peak_bytes", "peak_rss_bytes", "budget_bytes")}
    trained, total = result["trainable_parameters"], result["total_parameters"]
    print(
        f"accuracy on 1497 unseen digits: {100 * result['accuracy_before']:.1f} % before, "
        f"{100 * result['learned_accuracy']:.1f} % after learning in one pass of {result['learned_seconds']:.1f} s, "
        f"{100 * result['accuracy_after']:.1f} % after training "
        f"(linear probe {100 * result['linear_probe_accuracy']:.1f} %)\n"
        f"trained: {trained} of {total} parameters ({100 * trained / total:.2f} %) in {result['seconds']:.0f} s\n"
        f"peak memory: {mib['peak_rss_bytes']:.1f} MiB measured, {mib['predicted_peak_bytes']:.1f} MiB predicted, "
        f"{mib['budget_bytes']:.1f} MiB budget\n"
        f"files: {result['artifact']}, {result['knowledge']}, {result['output']}"
    )
