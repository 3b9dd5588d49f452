"""The rules of onnxruntime's CPU provider: where each operator writes, and what it takes beside its outputs.

Everything that is true of this engine alone and that a memory plan depends on. Measured with buffer reuse off
(`SessionOptions.enable_mem_reuse=False`), onnxruntime 1.19 and 1.32 alike;
tests/budget/test_rules.py measures it again. Plan verification (`plan/verify.py`) has coarser bounds of its own and
does not read this table.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from edge_s2a.host.graph.ir import Node, TensorType, fixed_sizes

OPSETS = {"": 21, "com.microsoft": 1}
IR_VERSION = 10  # the newest that onnxruntime 1.19 reads
# A convolution copies its input's windows in segments of this size, one for each thread.
SEGMENT_BYTES = 64 * 1024

Types = dict[str, TensorType]


class Scratch(NamedTuple):
    """Memory that a kernel takes from the arena while it runs."""

    bytes_per_image: int
    bytes_constant: int
    kind: str  # of the lifetime: "workspace" or "segments"


NO_SCRATCH = Scratch(0, 0, "workspace")


class Rule(NamedTuple):
    """How the engine runs an operator. Unless told otherwise, each output gets memory of its own."""

    is_view: bool = False  # the output lies where the first input lies
    overwrites_input: bool = False  # likewise, if no later node reads that input and the sizes are equal
    scratch: Callable[[Node, Types], Scratch] = lambda _node, _types: NO_SCRATCH
    runs_once_per_reader: bool = False  # and keeps all of the results: the graph must give its output one reader


def rule_of(node: Node) -> Rule:
    """Raises AssertionError for an operator without a rule."""
    try:
        return RULES[node.domain][node.operator]
    except KeyError:
        raise AssertionError(
            f"the operator {node.domain}:{node.operator} has no rule; say how onnxruntime runs it in "
            "edge_s2a/host/targets/onnxruntime/rules.py"
        ) from None


# -- scratch memory, measured with onnxruntime 1.32 on single nodes ------------------------------------


def where_scratch(node: Node, types: Types) -> Scratch:
    """Where selects from either side on its own."""
    result = types[node.outputs[0]]
    return Scratch(2 * result.bytes_per_image(), 2 * result.bytes_constant(), "workspace")


def convolution_scratch(node: Node, types: Types) -> Scratch:
    """The input's windows as a matrix: whole where the outputs per group are more than their positions, otherwise in
    segments. A kernel of one position is a product and takes none."""
    outputs, *kernel = fixed_sizes(types[node.inputs[1]].shape)  # kernel: inputs per group, height, width
    attributes = node.attributes
    if kernel[1:] == [1, 1] and set(attributes["strides"]) == {1} and not any(attributes["pads"]):
        return NO_SCRATCH
    positions = math.prod(fixed_sizes(types[node.outputs[0]].shape[2:]))
    if outputs // attributes["group"] > positions:
        return Scratch(0, positions * math.prod(kernel) * 4, "workspace")
    return Scratch(0, SEGMENT_BYTES, "segments")


def transposed_convolution_scratch(node: Node, types: Types) -> Scratch:
    """All that it adds up, of one image at a time."""
    _, *kernel = fixed_sizes(types[node.inputs[1]].shape)
    positions = math.prod(fixed_sizes(types[node.inputs[0]].shape[2:]))
    return Scratch(0, math.prod(kernel) * positions * 4, "workspace")


# -- the table -----------------------------------------------------------------------------------------

OWN_MEMORY = Rule()
VIEW = Rule(is_view=True)
IN_PLACE = Rule(overwrites_input=True)

# By domain and operator: exactly what `artifact.operators.OPERATORS` allows. Arithmetic on two tensors never runs in
# place on the CPU.
RULES: dict[str, dict[str, Rule]] = {
    "": {
        "Abs": OWN_MEMORY,
        "Add": OWN_MEMORY,
        "And": OWN_MEMORY,
        "BitShift": OWN_MEMORY,
        "BitwiseAnd": OWN_MEMORY,
        "BitwiseOr": OWN_MEMORY,
        "Cast": IN_PLACE,
        "Clip": IN_PLACE,
        "Col2Im": OWN_MEMORY,
        "Concat": OWN_MEMORY,
        "Conv": Rule(scratch=convolution_scratch),
        "ConvTranspose": Rule(scratch=transposed_convolution_scratch),
        "Cos": OWN_MEMORY,
        "CumSum": OWN_MEMORY,
        "DequantizeLinear": Rule(runs_once_per_reader=True),
        "Div": OWN_MEMORY,
        "Equal": OWN_MEMORY,
        "Erf": OWN_MEMORY,
        "Exp": OWN_MEMORY,
        "Expand": OWN_MEMORY,
        "Gather": OWN_MEMORY,
        "Gelu": OWN_MEMORY,
        "Gemm": OWN_MEMORY,
        "Greater": OWN_MEMORY,
        "GreaterOrEqual": OWN_MEMORY,
        "Identity": IN_PLACE,
        "LayerNormalization": OWN_MEMORY,
        "Less": OWN_MEMORY,
        "LessOrEqual": OWN_MEMORY,
        "Log": OWN_MEMORY,
        "LogSoftmax": OWN_MEMORY,  # planned larger: the engine may write it over its input, the logits
        "Max": OWN_MEMORY,
        "MaxPool": OWN_MEMORY,
        "Min": OWN_MEMORY,
        "Mul": OWN_MEMORY,
        "Neg": OWN_MEMORY,
        "Not": OWN_MEMORY,
        "Pad": OWN_MEMORY,
        "Pow": OWN_MEMORY,
        "QuantizeLinear": OWN_MEMORY,
        "Reciprocal": OWN_MEMORY,
        "ReduceL2": OWN_MEMORY,
        "ReduceMax": OWN_MEMORY,
        "ReduceMean": OWN_MEMORY,
        "ReduceMin": OWN_MEMORY,
        "ReduceSum": OWN_MEMORY,
        "ReduceSumSquare": OWN_MEMORY,
        "Relu": IN_PLACE,
        "Reshape": VIEW,
        "ScatterND": OWN_MEMORY,
        "Shape": OWN_MEMORY,
        "Sigmoid": IN_PLACE,
        "Sign": OWN_MEMORY,
        "Sin": OWN_MEMORY,
        "Slice": OWN_MEMORY,
        "Softmax": IN_PLACE,
        "Split": OWN_MEMORY,
        "Sqrt": OWN_MEMORY,
        "Sub": OWN_MEMORY,
        "Tanh": IN_PLACE,
        "Tile": OWN_MEMORY,
        "Transpose": OWN_MEMORY,
        "Unsqueeze": OWN_MEMORY,  # planned larger: a view, of an index vector
        "Where": Rule(scratch=where_scratch),
    },
    "com.microsoft": {
        "FusedMatMul": OWN_MEMORY,
        "MatMulIntegerToFloat": OWN_MEMORY,
    },
}
