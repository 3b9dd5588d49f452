"""From a folder of photos to an ONNX file: packs a timm model, fine-tunes it, exports it, runs the file in plain
onnxruntime, and compares its answers with those of the run.

    python examples/export_to_onnxruntime.py deit_tiny_patch16_224 --pretrained --data photos --output build/export

Packing and exporting need the extra `host`. Training runs in a process of its own, without torch, as on a device.
The exported file needs nothing but onnxruntime; numpy and Pillow prepare its images.
"""

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

import edge_s2a


def prepared(image: Image.Image, how: dict) -> np.ndarray:
    """float32 (1, 3, height, width), as the file's metadata says: resize, crop the centre, normalise."""
    height, width = how["image_size"]
    resized = how["resize_size"][::-1]
    if how["crop_mode"] == "center":  # the shorter side gets that size
        scale = resized[0] / min(image.size)
        resized = [int(side * scale + 1e-9) for side in image.size]
    image = image.convert("RGB").resize(resized, Image.Resampling[how["interpolation"].upper()])
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height))) / 255
    return ((pixels - how["mean"]) / how["std"]).transpose(2, 0, 1)[None].astype(np.float32)


def train(artifact: Path, run: Path, options: argparse.Namespace) -> None:
    edge_s2a.train(
        artifact, options.data, run, memory_budget=options.memory_budget, epochs=options.epochs, lr=options.lr,
        quiet=True,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a timm model")
    parser.add_argument("--data", type=Path, required=True, help="DATA/{train,val}/<class>/*")
    parser.add_argument("--pretrained", action="store_true", help="download timm's weights")
    parser.add_argument("--weights", type=Path, help="a file of weights instead")
    parser.add_argument("--model-kwargs", type=json.loads, default={}, metavar="JSON", help="passed to timm")
    parser.add_argument("--adapter", default="bias+lowrank", help="what to train (default: %(default)s)")
    parser.add_argument("--memory-budget", default="auto", help="for training (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="to train (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=3e-3, help="learning rate (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    artifact, run, model = (options.output / name for name in ("model.s2a", "run", "model.onnx"))
    labels = sorted(path.name for path in (options.data / "train").iterdir())

    edge_s2a.pack(
        options.model, artifact, labels=labels, weights=options.weights, pretrained=options.pretrained,
        model_kwargs=options.model_kwargs, adapter=options.adapter,
    )  # fmt: skip
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as device:
        device.submit(train, artifact, run, options).result()
    edge_s2a.export(artifact, run / "adapter.safetensors", model)

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    classes, how = json.loads(metadata["classes"]), json.loads(metadata["preprocessing"])
    validated = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    answers = []
    for of_run in validated:
        image = Image.open(options.data / "val" / of_run["image"])
        (logits,) = session.run(["logits"], {"image": prepared(image, how)})[0]
        answers.append(classes[logits.argmax()])
    right = sum(answer == of_run["label"] for answer, of_run in zip(answers, validated, strict=True))
    same = sum(answer == of_run["predicted"] for answer, of_run in zip(answers, validated, strict=True))
    print(f"accuracy: {right / len(answers):.3f} of {len(answers)} images")
    print(f"same answer as the run's: {same} of {len(answers)} images")
    print(f"written: {model}")


if __name__ == "__main__":
    main()
