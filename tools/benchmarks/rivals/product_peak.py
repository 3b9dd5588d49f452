"""Measures how fast this machine multiplies matrices in onnxruntime: python product_peak.py prints
{"fp32": ..., "int8": ...}, operations a second (two for a multiplication and an addition), the best of some runs."""

import json
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from task import THREADS

ROWS, INNER, COLUMNS = 1576, 768, 3072  # of the first layer of ViT-B/16's blocks at batch 8
RUNS = 12


def operations_per_second(operator: str, left: np.ndarray, right: np.ndarray, result: int) -> float:
    """`right` is a constant, as frozen weights are."""
    kind = helper.np_dtype_to_tensor_dtype(left.dtype)
    node = helper.make_node(operator, ["left", "right"], ["result"])
    weights = onnx.numpy_helper.from_array(right, "right")
    graph = helper.make_graph(
        [node], operator, [helper.make_tensor_value_info("left", kind, left.shape)],
        [helper.make_tensor_value_info("result", result, (ROWS, COLUMNS))], [weights],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    seconds = []
    for _ in range(RUNS):
        start_s = time.perf_counter()
        session.run(None, {"left": left})
        seconds.append(time.perf_counter() - start_s)
    return 2 * ROWS * INNER * COLUMNS / min(seconds)


def main() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((ROWS, INNER), np.float32), rng.standard_normal((INNER, COLUMNS), np.float32)
    codes = rng.integers(0, 256, (ROWS, INNER)).astype(np.uint8), rng.integers(-127, 128, (INNER, COLUMNS), np.int8)
    print(
        json.dumps(
            {
                "fp32": operations_per_second("MatMul", left, right, TensorProto.FLOAT),
                "int8": operations_per_second("MatMulInteger", *codes, TensorProto.INT32),
            }
        )
    )


if __name__ == "__main__":
    main()
