"""Makes onnxruntime-training's artifacts: python onnx_artifacts.py FOLDER METHOD, from what onnx_export.py left in
FOLDER, in FOLDER/METHOD."""

import json
import sys
from pathlib import Path

import onnx
import without_torch  # noqa: F401
from onnxruntime.training import artifacts


def main() -> None:
    folder, method = Path(sys.argv[1]), sys.argv[2]
    model = onnx.load(folder / "model.onnx")
    trained = json.loads((folder / "trained.json").read_text())[method]
    names = [initializer.name for initializer in model.graph.initializer]
    (folder / method).mkdir(exist_ok=True)
    artifacts.generate_artifacts(
        model,
        requires_grad=trained,
        frozen_params=[name for name in names if name not in set(trained)],
        loss=artifacts.LossType.CrossEntropyLoss,
        optimizer=artifacts.OptimType.AdamW,
        artifact_directory=folder / method,
    )


if __name__ == "__main__":
    main()
