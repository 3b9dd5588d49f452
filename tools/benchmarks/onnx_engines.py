"""Whether other engines read the ONNX files that `edge-s2a export` writes, and compute the same.

    pip install openvino opencv-python-headless
    python -m tools.benchmarks.onnx_engines

Packs one model of each family with random weights, exports it as float32, with int8 weights and for a fixed batch, and
prints for each engine that is installed the largest difference of the logits from onnxruntime's, relative to the
largest logit.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

import edge_s2a
from edge_s2a.artifact import tensors
from edge_s2a.artifact.adapter import save_adapter
from edge_s2a.artifact.archive import ADAPTER, Artifact
from edge_s2a.host.export.session import plain_session

MODELS = {
    "deit_tiny_patch16_224": "bias+lowrank",
    "swin_tiny_patch4_window7_224": "bias+lowrank",
    "resnet50": "lowrank",
    "mobilenetv2_100": "lowrank",
    "convnext_atto": "bias+lowrank",
    "efficientnet_lite0": "lowrank",
}
FORMS = {"float32": {}, "int8 weights": {"int8": True}, "batch 1": {"batch": 1}}
Run = Callable[[Path, np.ndarray], np.ndarray]


def main() -> None:
    engines = {name: run for name, run in (openvino(), opencv()) if run is not None}
    print("| model | " + " | ".join(f"{engine}, {form}" for engine in engines for form in FORMS) + " |")
    print("|---" * (1 + len(engines) * len(FORMS)) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for model, adapter in MODELS.items():
            artifact, trained = Path(folder) / "F.s2a", Path(folder) / "adapter.safetensors"
            edge_s2a.pack(model, artifact, num_classes=5, adapter=adapter)
            opened = Artifact(artifact)
            initial, _ = tensors.decode(opened.read(ADAPTER), str(artifact))
            save_adapter(trained, initial, opened.manifest, opened.manifest.class_names())
            cells = [
                cell(run, written(artifact, trained, Path(folder) / "model.onnx", form))
                for run in engines.values()
                for form in FORMS
            ]
            print(f"| {model} | " + " | ".join(cells) + " |", flush=True)


def written(artifact: Path, adapter: Path, path: Path, form: str) -> Path:
    edge_s2a.export(artifact, adapter, path, **FORMS[form])
    return path


def cell(run: Run, path: Path) -> str:
    """The difference, or the first words of what the engine says."""
    sizes = [dimension.dim_value for dimension in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
    image = np.random.default_rng(0).normal(size=(1, *sizes[1:])).astype(np.float32)
    expected = plain_session(str(path)).run(None, {"image": image})[0]
    try:
        found = run(path, image)
    except Exception as error:  # whatever an engine raises for a model that it does not read
        return f"{type(error).__name__}: {str(error)[:40]}"
    return f"{np.abs(found - expected).max() / np.abs(expected).max():.1e}"


def openvino() -> tuple[str, Run | None]:
    try:
        import openvino
    except ImportError:
        return "OpenVINO", None

    def run(path: Path, image: np.ndarray) -> np.ndarray:
        compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return next(iter(compiled([image]).values()))

    return f"OpenVINO {openvino.__version__.split('-')[0]}", run


def opencv() -> tuple[str, Run | None]:
    try:
        import cv2
    except ImportError:
        return "OpenCV", None

    def run(path: Path, image: np.ndarray) -> np.ndarray:
        network = cv2.dnn.readNetFromONNX(str(path))
        network.setInput(image)
        return network.forward()

    return f"OpenCV {cv2.__version__}", run


if __name__ == "__main__":
    main()
