"""Exports a model for onnxruntime-training: python onnx_export.py MODEL FOLDER writes FOLDER/model.onnx and
FOLDER/trained.json, the parameters of each method.

By torch's older exporter, without folding and at opset 13, for at a newer one onnxruntime-training cannot build the
gradient of LayerNorm; and in training mode, for in evaluation mode the exporter makes equal parameters one, such as
those of two norms at their start, and their gradient is then defined twice.
"""

import json
import sys
from pathlib import Path

import torch
from task import BATCH, IMAGE_SIZE
from timm.layers import set_fused_attn
from torch_train import names_of_bias_and_head, new_model

OPSET = 13


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    set_fused_attn(False)
    model = new_model(name)
    trained = {"full": [name for name, _ in model.named_parameters()], "bias": names_of_bias_and_head(model)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trained.json").write_text(json.dumps(trained))
    torch.onnx.export(
        model, (torch.randn(BATCH, 3, IMAGE_SIZE, IMAGE_SIZE),), str(folder / "model.onnx"), dynamo=False,
        opset_version=OPSET, training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
        input_names=["image"], output_names=["logits"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
