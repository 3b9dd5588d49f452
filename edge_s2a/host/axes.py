"""Which dimensions of a node's inputs and outputs are one axis: what the node computes at one place along it depends on
that place alone, or is a sum over all places."""

from typing import NamedTuple

from edge_s2a.host.ir import Graph, Node

ELEMENTWISE = {
    "Abs", "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "Cast", "Clip", "Cos", "DequantizeLinear", "Div",
    "Equal", "Erf", "Exp", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "Less",
    "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not", "Or", "QuantizeLinear", "Reciprocal", "Relu", "Sigmoid",
    "Sign", "Sin", "Sqrt", "Sub", "Tanh", "Where",
}  # fmt: skip
REDUCTIONS = {"ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"}
PRODUCTS = {"Conv", "ConvTranspose", "FusedMatMul", "Gemm"}


class Axis(NamedTuple):
    """The dimension of each input and output that lies along the axis, None where there is none."""

    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]

    @property
    def is_summed(self) -> bool:
        return all(dimension is None for dimension in self.outputs)


def axes(graph: Graph, node: Node) -> list[Axis]:
    """The axes of a node; none for operators that have none or that are not known here. Reshape has none: the places
    along an axis may be spread over several dimensions."""
    shapes = [graph.types[name].shape if name else () for name in node.inputs]
    result = graph.types[node.outputs[0]].shape if node.outputs[0] else ()
    rank = len(result)
    if node.operator in ("QuantizeLinear", "DequantizeLinear") and shapes[1]:
        return coded_axes(shapes, node.attributes.get("axis", 1))
    if node.operator in ELEMENTWISE:
        return [along(node, [aligned(shape, result, d) for shape in shapes], d) for d in range(rank)]
    if node.operator in REDUCTIONS:
        reduced = {int(axis) % len(shapes[0]) for axis in graph.constants.get(node.inputs[1], ())}
        kept = [d for d in range(len(shapes[0])) if d not in reduced]
        places = kept if node.attributes["keepdims"] else range(len(kept))
        return [along(node, [d], place) for d, place in zip(kept, places, strict=True)] if reduced else []
    if node.operator == "Transpose":
        return [along(node, [source], d) for d, source in enumerate(node.attributes["perm"])]
    if node.operator == "Slice":
        cut = {int(axis) % rank for axis in graph.constants.get(node.inputs[3], range(rank))}
        return [along(node, [d], d) for d in range(rank) if d not in cut]
    if node.operator in ("Softmax", "Split", "Concat"):
        whole = node.attributes["axis"] % rank
        sources = len(node.inputs) if node.operator == "Concat" else 1
        return [along(node, [d] * sources, d) for d in range(rank) if d != whole]
    if node.operator in PRODUCTS:
        return product_axes(node, shapes, result)
    return []


def along(node: Node, inputs: list[int | None], output: int | None) -> Axis:
    absent = [None] * (len(node.inputs) - len(inputs))
    return Axis((*inputs, *absent), (output,) * len(node.outputs))


def aligned(shape: tuple, result: tuple, dimension: int) -> int | None:
    """The dimension of an operand that goes with `dimension` of the result when shapes are aligned at their ends."""
    own = dimension - (len(result) - len(shape))
    return own if own >= 0 and shape[own] == result[dimension] != 1 else None


def coded_axes(shapes: list[tuple], axis: int) -> list[Axis]:
    """Of codes with a scale for each place along `axis`, or for each block of places if its rank is the codes'."""
    rank = len(shapes[0])
    found = []
    for d in range(rank):
        scale = d if len(shapes[1]) == rank else 0 if d == axis % rank else None
        found.append(Axis((d, *[scale] * (len(shapes) - 1)), (d,)))
    return found


def product_axes(node: Node, shapes: list[tuple], result: tuple) -> list[Axis]:
    first, second = shapes[:2]
    rows, columns = len(result) - 2, len(result) - 1
    if node.operator in ("Conv", "ConvTranspose"):
        group = node.attributes["group"]
        outer, inner = (0, 1) if node.operator == "Conv" else (1, 0)  # of the kernel: output and input channels
        bias = [0] * (len(shapes) - 2)
        if group == 1:
            return [along(node, [None, outer, *bias], 1), along(node, [1, inner], None)]
        is_depthwise = group == first[1] == result[1]
        return [along(node, [1, 0, *bias], 1)] if is_depthwise else []

    row, summed = (-1, -2) if node.attributes.get("transA") else (-2, -1)
    other_summed, column = (-1, -2) if node.attributes.get("transB") else (-2, -1)
    row, summed = row % len(first), summed % len(first)
    other_summed, column = other_summed % len(second), column % len(second)
    added = shapes[2:]
    found = [
        along(node, [row, None, *(aligned(shape, result, rows) for shape in added)], rows),
        along(node, [None, column, *(aligned(shape, result, columns) for shape in added)], columns),
        along(node, [summed, other_summed], None),
    ]
    for d in range(rows):
        operands = [aligned(first[:-2], result[:-2], d), aligned(second[:-2], result[:-2], d)]
        found.append(along(node, operands, d))
    return found
