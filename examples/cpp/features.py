"""Writes the features of a folder of images as .npy files, for programs in other languages.

    edge-s2a export model.s2a --adapter K --format onnx-features --output features.onnx
    python examples/cpp/features.py features.onnx photos/train --output build/train

Writes build/train/features.npy, float32 (images, features), and labels.npy, int64 (images): the place of the image's
folder among the sorted names of all. Needs onnxruntime, numpy and Pillow. A program that runs features.onnx itself
prepares images as `prepared` does.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", help="a file that edge-s2a export --format onnx-features wrote")
    parser.add_argument("images", type=Path, help="IMAGES/<class>/*")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    options = parser.parse_args()
    session = onnxruntime.InferenceSession(options.graph, providers=["CPUExecutionProvider"])
    how = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
    classes = sorted(path.name for path in options.images.iterdir())
    paths = sorted(path for path in options.images.glob("*/*") if path.is_file())
    features = [session.run(["features"], {"image": prepared(Image.open(path), how)})[0] for path in paths]
    options.output.mkdir(parents=True, exist_ok=True)
    np.save(options.output / "features.npy", np.concatenate(features))
    np.save(options.output / "labels.npy", np.array([classes.index(path.parent.name) for path in paths], np.int64))
    print(f"{len(paths)} images of {', '.join(classes)}: {features[0].shape[1]} features each")


if __name__ == "__main__":
    main()
