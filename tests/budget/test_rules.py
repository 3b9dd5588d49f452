"""The table of the engine's rules against the engine, one operator at a time: it runs in the arena that the rules plan
for, and not in less. (Convolutions and whole programs: test_arena.py.)"""

import numpy as np
import onnxruntime
import pytest

from edge_s2a.artifact.program import Call
from edge_s2a.device.engine import onnxruntime as engine
from edge_s2a.host.graph.ir import BOOL, FLOAT32, INT64, UINT8, Batch, Graph, Node, TensorType
from edge_s2a.host.targets.onnxruntime.emit import to_onnx
from edge_s2a.host.targets.onnxruntime.liveness import plan_program
from edge_s2a.plan.arena import arena_peak, smallest_arena_bytes

BATCH, WIDTH = 4, 1 << 16  # a MiB of float32
TOLERANCE_BYTES = 32 << 10  # a quarter of the smallest value here, of booleans, is twice as much
INT32 = np.dtype(np.int32)
WHOLE = TensorType(FLOAT32, (Batch(1), WIDTH))
CONSTANTS = {
    "one": np.float32(1),
    "zero": np.uint8(0),
    "first": np.array([0], np.int64),
    "half": np.array([WIDTH // 2], np.int64),
    "axis": np.array([1], np.int64),
    "shape": np.array([-1, 2, WIDTH // 2], np.int64),
}
HALF = (Batch(1), WIDTH // 2)
PLANNED_LARGER = {"LogSoftmax", "Unsqueeze"}  # see the table

# operator, inputs, type of the result, attributes. "a" and "mask" are what other nodes made of the graph's input "x",
# "codes" what QuantizeLinear did.
CASES = [
    *[(name, ["a"], WHOLE, {}) for name in ("Abs", "Cos", "Erf", "Exp", "Gelu", "Identity", "Log", "Neg")],
    *[(name, ["a"], WHOLE, {}) for name in ("Reciprocal", "Relu", "Sigmoid", "Sign", "Sin", "Sqrt", "Tanh", "Clip")],
    *[(name, ["a"], WHOLE, {"axis": 1}) for name in ("Softmax", "LogSoftmax")],
    *[(name, ["a", "x"], WHOLE, {}) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow")],
    *[(name, ["a", "x"], TensorType(BOOL, WHOLE.shape), {}) for name in ("Greater", "Less", "Equal", "LessOrEqual")],
    *[(name, ["a", "axis"], TensorType(FLOAT32, (Batch(1), 1)), {}) for name in ("ReduceMax", "ReduceSum", "ReduceL2")],
    ("Cast", ["a"], TensorType(INT32, WHOLE.shape), {"to": INT32}),
    ("Not", ["mask"], TensorType(BOOL, WHOLE.shape), {}),
    ("Where", ["mask", "a", "x"], WHOLE, {}),
    ("Reshape", ["a", "shape"], TensorType(FLOAT32, (Batch(1), 2, WIDTH // 2)), {"allowzero": 1}),
    ("Concat", ["a", "x"], TensorType(FLOAT32, (Batch(1), 2 * WIDTH)), {"axis": 1}),
    ("Slice", ["a", "first", "half", "axis"], TensorType(FLOAT32, HALF), {}),
    ("QuantizeLinear", ["a", "one", "zero"], TensorType(UINT8, WHOLE.shape), {}),
    ("DequantizeLinear", ["codes", "one", "zero"], WHOLE, {}),
    ("Unsqueeze", ["a", "axis"], TensorType(FLOAT32, (Batch(1), 1, WIDTH)), {}),
]  # fmt: skip


def graph_of(operator: str, inputs: list[str], result: TensorType, attributes: dict) -> Graph:
    """Nodes that make the inputs, the operator, and one that reads its result and makes the graph's output."""
    makers = {
        "a": (Node("Neg", ["x"], ["a"]), WHOLE),
        "mask": (Node("Greater", ["x", "x"], ["mask"]), TensorType(BOOL, WHOLE.shape)),
        "codes": (Node("QuantizeLinear", ["x", "one", "zero"], ["codes"]), TensorType(UINT8, WHOLE.shape)),
    }
    used = [name for name in inputs if name in makers]
    nodes = [makers[name][0] for name in used]
    nodes.append(Node(operator, inputs, ["result"], attributes))
    nodes.append(Node("Shape", ["result"], ["y"]))
    read = {name for node in nodes for name in node.inputs}
    constants = {name: np.asarray(value) for name, value in CONSTANTS.items() if name in read}
    types = {name: makers[name][1] for name in used} | {"x": WHOLE, "result": result}
    types |= {name: TensorType(value.dtype, value.shape) for name, value in constants.items()}
    types["y"] = TensorType(INT64, (len(result.shape),))
    return Graph("one_operator", ["x"], ["y"], nodes, constants, types)


def runs_in(graph: Graph, arena_bytes: int) -> bool:
    engine.ARENA.reserve(arena_bytes)
    x = np.ones((BATCH, WIDTH), np.float32)
    try:
        session = onnxruntime.InferenceSession(
            to_onnx(graph), engine._session_options(1, bounded=True), providers=["CPUExecutionProvider"]
        )
        session.run(None, {"x": x})
    except Exception as error:
        if engine.OUT_OF_MEMORY.search(str(error)):
            return False
        raise
    return True


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_an_operator_takes_the_memory_that_its_rule_says(case):
    graph = graph_of(*case)
    plans = {"training": plan_program([graph], [Call(0, graph.inputs, graph.outputs)])}
    assert runs_in(graph, smallest_arena_bytes(plans, BATCH) + TOLERANCE_BYTES)
    takes_less = runs_in(graph, arena_peak(plans, BATCH).arena_bytes - TOLERANCE_BYTES)
    assert takes_less == (case[0] in PLANNED_LARGER)
