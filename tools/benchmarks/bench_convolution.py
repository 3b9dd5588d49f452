"""Why convolutions compute in float32: the engine's ways to do one in int8, beside Conv.

    python -m tools.benchmarks.bench_convolution

Single operators on random values, batch 8, two threads, weights not packed beforehand (they are inputs, as in an
artifact's graphs); medians of 15 runs in ms. *around*: rounding the input with a scale for each image, and scaling the
sums back, which ConvInteger and MatMulInteger need and QLinearConv, whose output's range must be known, does not.
"""

import argparse
import statistics
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

BATCH, THREADS, RUNS = 8, 2, 15
# Inputs, outputs, kernel and side of the map, of ResNet-50.
SHAPES = [
    (64, 64, 3, 56),
    (128, 128, 3, 28),
    (256, 256, 3, 14),
    (64, 256, 1, 56),
    (512, 128, 1, 28),
    (256, 1024, 1, 14),
]


def time_ms(nodes: list, values: dict[str, np.ndarray], result: int, constants: dict[str, np.ndarray]) -> float:
    """Of the nodes, which read `values` and make "y", of the element type `result`."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in values.items()
    ]
    outputs = [helper.make_tensor_value_info("y", result, None)]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "one", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.run(None, values)
    seconds = []
    for _ in range(RUNS):
        start_s = time.perf_counter()
        session.run(None, values)
        seconds.append(time.perf_counter() - start_s)
    return 1000 * statistics.median(seconds)


def measure(inputs: int, outputs: int, kernel: int, side: int) -> list[float | None]:
    """Conv, ConvInteger, MatMulInteger (1x1 alone), QLinearConv, and what is around the integer ones."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, inputs, side, side), np.float32)
    w = rng.standard_normal((outputs, inputs, kernel, kernel), np.float32)
    x8, w8 = rng.integers(0, 256, x.shape, np.uint8), rng.integers(-127, 128, w.shape, np.int8)
    zero, pads = np.array(128, np.uint8), [kernel // 2] * 4
    single = np.array(1, np.float32)
    convolution = time_ms(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=pads)], {"x": x, "w": w}, TensorProto.FLOAT, {}
    )
    integer = time_ms(
        [helper.make_node("ConvInteger", ["x", "w", "z"], ["y"], pads=pads)], {"x": x8, "w": w8}, TensorProto.INT32,
        {"z": zero},
    )  # fmt: skip
    product = None
    if kernel == 1:
        columns, matrix = x8.view(np.int8).reshape(BATCH, inputs, -1), w8.view(np.uint8).reshape(outputs, inputs)
        product = time_ms(
            [helper.make_node("MatMulInteger", ["w", "x", "z"], ["y"])], {"x": columns, "w": matrix}, TensorProto.INT32,
            {"z": zero},
        )  # fmt: skip
    names = ["x", "one", "z", "w", "scales", "zeros", "one", "z"]
    linear = time_ms(
        [helper.make_node("QLinearConv", names, ["y"], pads=pads)], {"x": x8, "w": w8}, TensorProto.UINT8,
        {"one": single, "z": zero, "scales": np.ones(outputs, np.float32), "zeros": np.zeros(outputs, np.int8)},
    )  # fmt: skip
    rounding = time_ms(
        [
            helper.make_node("ReduceMax", ["x", "axes"], ["scale"], keepdims=0),
            helper.make_node("QuantizeLinear", ["x", "scale", "z"], ["y"], axis=0),
        ],
        {"x": x}, TensorProto.UINT8, {"axes": np.array([1, 2, 3]), "z": np.full(BATCH, 128, np.uint8)},
    )  # fmt: skip
    sums = np.zeros((BATCH, outputs, side, side), np.int32)
    scaling = time_ms(
        [
            helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["float", "scale"], ["y"]),
        ],
        {"x": sums}, TensorProto.FLOAT, {"scale": np.ones((BATCH, outputs, 1, 1), np.float32)},
    )  # fmt: skip
    return [convolution, integer, product, linear, rounding + scaling]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print("| convolution | Conv | ConvInteger | MatMulInteger | QLinearConv | around |")
    print("|---|---|---|---|---|---|")
    for inputs, outputs, kernel, side in SHAPES:
        cells = ["" if value is None else f"{value:.1f}" for value in measure(inputs, outputs, kernel, side)]
        print(f"| {inputs} to {outputs}, {kernel}x{kernel}, {side}x{side} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
