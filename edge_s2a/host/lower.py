"""Lowers a captured torch computation to ONNX operators: one function for each ATen operator.

Chosen for memory: views are Reshape (which the engine aliases), transposes disappear into the products
that read them, and a frozen weight is dequantised anew before each use, so no float copy of it outlives
its product.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import SymInt, Tensor, fx

from edge_s2a.artifact.names import IMAGE
from edge_s2a.errors import UserError
from edge_s2a.host.capture import Captured
from edge_s2a.host.ir import Batch, Dimension, Graph, Node, TensorType
from edge_s2a.host.weights import FrozenWeights

aten = torch.ops.aten

DTYPES = {
    torch.float32: np.dtype(np.float32),
    torch.float16: np.dtype(np.float16),
    torch.uint8: np.dtype(np.uint8),
    torch.int64: np.dtype(np.int64),
}
FLOAT32 = DTYPES[torch.float32]
INT64 = DTYPES[torch.int64]


def lower(
    captured: Captured,
    name: str,
    input_names: list[str],
    output_names: list[str],
    weights: FrozenWeights,
    parameter_names: dict[int, str],
) -> Graph:
    """The captured computation as a graph of ONNX operators.

    input_names and output_names go with the placeholders and results of the captured graph in order.
    The arrays of `weights` that the graph reads become inputs after them. parameter_names: id of a
    captured torch tensor -> its name in `weights`. Raises UserError for an operator without a lowering.
    """
    lowering = Lowering(captured, weights, parameter_names)
    placeholders = [node for node in captured.graph.nodes if node.op == "placeholder"]
    for node, input_name in zip(placeholders, input_names, strict=True):
        lowering.declare(input_name, node.meta["val"])
        lowering.values[node] = input_name
    output_node = next(node for node in captured.graph.nodes if node.op == "output")
    results = output_node.args[0]
    for node in captured.graph.nodes:
        if node.op == "get_attr":
            lowering.lower_constant(node)
        elif node.op == "call_function" and node.users:
            lowering.lower_call(node)
        if node is results[0]:
            lowering.is_backward = True
    lowering.name_outputs([lowering.values[result] for result in results], output_names)
    inputs = input_names + list(lowering.used_weights)
    return Graph(name, inputs, output_names, lowering.nodes, lowering.constants, lowering.types)


class Lowering:
    """The state of one lowering: values by torch node, and the graph that grows."""

    def __init__(self, captured: Captured, weights: FrozenWeights, parameter_names: dict[int, str]):
        self.captured = captured
        self.weights = weights
        self.parameter_names = parameter_names
        self.values: dict[fx.Node, Any] = {}
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.types: dict[str, TensorType] = {}
        self.used_weights: dict[str, None] = {}
        # value -> the value it is the matrix transpose of, as long as nobody needs it in memory
        self.transposed: dict[str, str] = {}
        # value -> the matrix it repeats for each image, likewise; products broadcast it instead
        self.expanded: dict[str, str] = {}
        self.is_backward = False

    # -- building blocks -------------------------------------------------------------------------------

    def declare(self, name: str, example: Tensor) -> None:
        self.types[name] = tensor_type(example)

    def emit(
        self,
        op: str,
        inputs: list[str],
        result: TensorType | list[TensorType],
        domain: str = "",
        **attributes,
    ) -> Any:
        """Appends a node; returns the name of its output, or the names if `result` is a list of types."""
        types = result if isinstance(result, list) else [result]
        operands = [self.operand(value) if value else "" for value in inputs]
        names = []
        for value_type in types:
            names.append(self.new_name(op))
            self.types[names[-1]] = value_type
        self.nodes.append(Node(op, operands, names, attributes, domain, self.is_backward))
        return names if isinstance(result, list) else names[0]

    def new_name(self, stem: str) -> str:
        return f"{stem}_{len(self.types)}_{len(self.nodes)}"

    def _append(self, op: str, inputs: list[str], output: str, **attributes) -> str:
        self.nodes.append(Node(op, inputs, [output], attributes, "", self.is_backward))
        return output

    def operand(self, value: str) -> str:
        """The name under which a node reads `value`: frozen weights in float32, transposes in memory."""
        if value in self.transposed:
            rank = len(self.types[value].shape)
            permutation = [*range(rank - 2), rank - 1, rank - 2]
            return self._append("Transpose", [self.operand(self.transposed.pop(value))], value, perm=permutation)
        if value in self.expanded:
            shape = self.shape_vector(self.types[value].shape)
            return self._append("Expand", [self.operand(self.expanded.pop(value)), shape], value)
        if value not in self.weights.formats:
            return value
        return self.dequantized_weight(value)

    def dequantized_weight(self, name: str) -> str:
        members = self.weights.members(name)
        for member in members:
            self.used_weights[member] = None
            array = self.weights.arrays[member]
            self.types[member] = TensorType(array.dtype, array.shape)
        if self.weights.formats[name] == "fp32":
            return name
        result = self.new_name("weight")
        self.types[result] = TensorType(FLOAT32, self.types[name].shape)
        if self.weights.formats[name] == "int8":
            return self._append("DequantizeLinear", members, result, axis=0)
        return self._append("Cast", members, result, to=FLOAT32)

    def constant(self, value: Any, dtype: Any) -> str:
        """The name of a small constant that the graph itself holds; equal ones are held once."""
        array = np.asarray(value, dtype)
        name = f"constant_{array.dtype}_{'x'.join(map(str, array.shape))}_{array.tobytes().hex()[:64]}"
        known = self.constants.setdefault(name, array)
        if not np.array_equal(known, array):
            name = f"{name}_{len(self.constants)}"
            self.constants[name] = array
        self.types[name] = TensorType(array.dtype, array.shape)
        return name

    def reshape(self, value: str, shape: tuple[Dimension, ...]) -> str:
        if self.types[value].shape == shape:
            return value
        target = self.constant([-1 if isinstance(d, Batch) else d for d in shape], np.int64)
        return self.emit("Reshape", [value, target], TensorType(self.types[value].dtype, shape), allowzero=1)

    def shape_vector(self, shape: tuple[Dimension, ...]) -> str:
        """int64 (rank,): the shape at run time."""
        if not any(isinstance(d, Batch) for d in shape):
            return self.constant(shape, np.int64)
        one = TensorType(INT64, (1,))
        batch = self.emit("Shape", [IMAGE], one, start=0, end=1)
        parts = []
        for dimension in shape:
            if not isinstance(dimension, Batch):
                parts.append(self.constant([dimension], np.int64))
            elif dimension.times == 1:
                parts.append(batch)
            else:
                times = self.constant([dimension.times], np.int64)
                parts.append(self.emit("Mul", [batch, times], one))
        return self.emit("Concat", parts, TensorType(INT64, (len(shape),)), axis=0)

    def name_outputs(self, values: list[str], names: list[str]) -> None:
        """Gives results their public names; a result that no node produces alone is copied."""
        produced = {name for node in self.nodes for name in node.outputs}
        renamed: dict[str, str] = {}
        for value, name in zip(values, names, strict=True):
            value = self.operand(value)
            self.types[name] = self.types[value]
            if value in produced and value not in renamed:
                renamed[value] = name
            else:
                self._append("Identity", [value], name)
        for node in self.nodes:
            node.inputs = [renamed.get(value, value) for value in node.inputs]
            node.outputs = [renamed.get(value, value) for value in node.outputs]

    # -- torch nodes -----------------------------------------------------------------------------------

    def lower_constant(self, node: fx.Node) -> None:
        tensor = self.captured.constants[node.target]
        name = self.parameter_names.get(id(tensor))
        if name is None:
            self.values[node] = self.constant(tensor.detach().numpy(), DTYPES[tensor.dtype])
            return
        self.declare(name, tensor)
        self.values[node] = name

    def lower_call(self, node: fx.Node) -> None:
        if isinstance(node.meta.get("val"), SymInt):
            return  # sizes come from the recorded shapes
        function = LOWERINGS.get(node.target)
        if function is None:
            raise UserError(
                f"the model uses {node.target}, which has no lowering to ONNX yet; pack a plain vision "
                "transformer (hybrids with a convolutional stem are not supported)"
            )
        arguments = fx.map_arg(node.args, lambda argument: self.values.get(argument))
        self.values[node] = function(self, node, *arguments, **node.kwargs)


def tensor_type(example: Tensor) -> TensorType:
    return TensorType(DTYPES[example.dtype], tuple(dimension(size) for size in example.shape))


def dimension(size: int | SymInt) -> Dimension:
    if not isinstance(size, SymInt):
        return size
    expression = size.node.expr
    if expression.is_number:
        return int(expression)
    (symbol,) = expression.free_symbols
    times = expression / symbol
    if not times.is_number:
        raise UserError(f"a dimension of {expression} is not a multiple of the batch size")
    return Batch(int(times))


def result_type(node: fx.Node) -> TensorType:
    return tensor_type(node.meta["val"])


# -- one function for each ATen operator ---------------------------------------------------------------

LOWERINGS: dict[Any, Callable] = {}


def lowers(*targets: Any) -> Callable:
    def register(function: Callable) -> Callable:
        for target in targets:
            LOWERINGS[target] = function
        return function

    return register


def elementwise(op: str) -> Callable:
    def function(low: Lowering, node: fx.Node, *operands, **_) -> str:
        dtype = result_type(node).dtype
        names = [x if isinstance(x, str) else low.constant(x, dtype) for x in operands]
        return low.emit(op, names, result_type(node))

    return function


for _target, _op in {
    aten.mul.Tensor: "Mul",
    aten.mul.Scalar: "Mul",
    aten.div.Tensor: "Div",
    aten.div.Scalar: "Div",
    aten.neg.default: "Neg",
    aten.erf.default: "Erf",
    aten.exp.default: "Exp",
    aten.tanh.default: "Tanh",
    aten.sigmoid.default: "Sigmoid",
    aten.sqrt.default: "Sqrt",
    aten.reciprocal.default: "Reciprocal",
    aten.bitwise_or.Tensor: "BitwiseOr",
    aten.bitwise_and.Scalar: "BitwiseAnd",
}.items():
    LOWERINGS[_target] = elementwise(_op)


@lowers(aten.add.Tensor, aten.add.Scalar)
def _add(low, node, a, b, alpha=1):
    return elementwise("Add")(low, node, a, _scaled(low, node, b, alpha))


@lowers(aten.sub.Tensor, aten.sub.Scalar)
def _sub(low, node, a, b, alpha=1):
    return elementwise("Sub")(low, node, a, _scaled(low, node, b, alpha))


@lowers(aten.rsub.Scalar)
def _rsub(low, node, a, b, alpha=1):
    return elementwise("Sub")(low, node, b, _scaled(low, node, a, alpha))


def _scaled(low, node, value, alpha):
    return value if alpha == 1 else elementwise("Mul")(low, node, value, alpha)


@lowers(aten.pow.Tensor_Scalar)
def _pow(low, node, x, exponent):
    if exponent == 2:
        return low.emit("Mul", [x, x], result_type(node))
    return elementwise("Pow")(low, node, x, float(exponent))


@lowers(aten.rsqrt.default)
def _rsqrt(low, node, x):
    return low.emit("Reciprocal", [low.emit("Sqrt", [x], result_type(node))], result_type(node))


@lowers(aten.clamp.default)
def _clamp(low, node, x, low_bound=None, high_bound=None):
    dtype = result_type(node).dtype
    bounds = ["" if bound is None else low.constant(bound, dtype) for bound in (low_bound, high_bound)]
    return low.emit("Clip", [x, *bounds], result_type(node))


def shift(direction: str) -> Callable:
    def function(low, node, x, amount):
        count = low.constant(amount, result_type(node).dtype)
        return low.emit("BitShift", [x, count], result_type(node), direction=direction)

    return function


LOWERINGS[aten.__lshift__.Scalar] = shift("LEFT")
LOWERINGS[aten.__rshift__.Scalar] = shift("RIGHT")


@lowers(torch.ops.edge_s2a.quantize.default)
def _quantize(low, node, x, step, zero, bits):
    uint8 = result_type(node)
    inputs = [x, low.constant(step, np.float32), low.constant(zero, np.uint8)]
    codes = low.emit("QuantizeLinear", inputs, uint8)
    if bits == 8:
        return codes
    limits = [low.constant(limit, np.uint8) for limit in (0, 2**bits - 1)]
    return low.emit("Clip", [codes, *limits], uint8)


@lowers(torch.ops.edge_s2a.dequantize.default)
def _dequantize(low, node, codes, step, zero):
    inputs = [codes, low.constant(step, np.float32), low.constant(zero, np.uint8)]
    return low.emit("DequantizeLinear", inputs, result_type(node))


@lowers(aten.gelu.default)
def _gelu(low, node, x, approximate="none"):
    return low.emit("Gelu", [x], result_type(node), approximate=approximate)


@lowers(aten._to_copy.default)
def _to_copy(low, node, x, dtype=None, **_):
    if low.types[x].dtype == result_type(node).dtype:
        return x
    return low.emit("Cast", [x], result_type(node), to=result_type(node).dtype)


@lowers(
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
def _view(low, node, x, *_):
    return low.reshape(x, result_type(node).shape)


@lowers(aten.clone.default, aten.detach.default, aten.alias.default)
def _same(low, node, x, **_):
    return x


@lowers(operator.getitem)
def _getitem(low, node, values, index):
    return values[index]


def _swap_last(low, value: str, result: TensorType) -> str:
    if value in low.transposed:
        return low.transposed[value]
    name = f"transposed_{len(low.types)}"
    low.types[name] = result
    low.transposed[name] = value
    return name


def _permute(low, node, x, permutation):
    rank = len(permutation)
    permutation = [axis % rank for axis in permutation]
    if permutation == list(range(rank)):
        return x
    if permutation == [*range(rank - 2), rank - 1, rank - 2]:
        return _swap_last(low, x, result_type(node))
    return low.emit("Transpose", [x], result_type(node), perm=permutation)


LOWERINGS[aten.permute.default] = _permute


@lowers(aten.transpose.int)
def _transpose(low, node, x, first, second):
    permutation = list(range(len(result_type(node).shape)))
    permutation[first], permutation[second] = permutation[second], permutation[first]
    return _permute(low, node, x, permutation)


@lowers(aten.t.default)
def _t(low, node, x):
    return _swap_last(low, x, result_type(node))


@lowers(aten.expand.default)
def _expand(low, node, x, *_, **__):
    shape = result_type(node).shape
    if low.types[x].shape == shape:
        return x
    if len(shape) == 3 and low.types[x].shape[-2:] == shape[-2:]:
        name = low.new_name("expanded")
        low.types[name] = result_type(node)
        low.expanded[name] = x
        return name
    return low.emit("Expand", [x, low.shape_vector(shape)], result_type(node))


@lowers(aten.ones_like.default)
def _ones_like(low, node, x, **_):
    one = low.constant(1, result_type(node).dtype)
    shape = result_type(node).shape
    return one if shape == () else low.emit("Expand", [one, low.shape_vector(shape)], result_type(node))


@lowers(aten.cat.default)
def _cat(low, node, values, axis=0):
    return low.emit("Concat", list(values), result_type(node), axis=axis)


@lowers(aten.stack.default)
def _stack(low, node, values, axis=0):
    result = result_type(node)
    axis %= len(result.shape)
    part = (*result.shape[:axis], 1, *result.shape[axis + 1 :])
    return low.emit("Concat", [low.reshape(value, part) for value in values], result, axis=axis)


@lowers(aten.split.Tensor, aten.split_with_sizes.default)
def _split(low, node, x, _sizes, axis=0):
    results = [tensor_type(value) for value in node.meta["val"]]
    lengths = low.constant([result.shape[axis] for result in results], np.int64)
    return low.emit("Split", [x, lengths], results, axis=axis)


@lowers(aten.unbind.int)
def _unbind(low, node, x, axis=0):
    shape = low.types[x].shape
    axis %= len(shape)
    results = [tensor_type(value) for value in node.meta["val"]]
    part = TensorType(low.types[x].dtype, (*shape[:axis], 1, *shape[axis + 1 :]))
    lengths = low.constant([1] * len(results), np.int64)
    parts = low.emit("Split", [x, lengths], [part] * len(results), axis=axis)
    return [low.reshape(value, result.shape) for value, result in zip(parts, results, strict=True)]


@lowers(aten.select.int)
def _select(low, node, x, axis, index):
    return low.emit("Gather", [x, low.constant(index, np.int64)], result_type(node), axis=axis)


@lowers(aten.slice.Tensor)
def _slice(low, node, x, axis=0, start=None, end=None, step=1):
    if low.types[x].shape == result_type(node).shape:
        return x
    size = low.types[x].shape[axis]
    bounds = [start or 0, size if end is None else min(end, size), axis, step]
    return low.emit("Slice", [x, *(low.constant([b], np.int64) for b in bounds)], result_type(node))


def _pad(low, value: str, result: TensorType, axis: int, start: int) -> str:
    """`value` at `start` of `axis` of a tensor that is zero elsewhere."""
    rank = len(result.shape)
    pads = [0] * (2 * rank)
    pads[axis] = start
    pads[rank + axis] = result.shape[axis] - low.types[value].shape[axis] - start
    return low.emit("Pad", [value, low.constant(pads, np.int64)], result, mode="constant")


@lowers(aten.select_backward.default)
def _select_backward(low, node, grad, _sizes, axis, index):
    result = result_type(node)
    axis %= len(result.shape)
    part = low.reshape(grad, (*result.shape[:axis], 1, *result.shape[axis + 1 :]))
    return _pad(low, part, result, axis, index % result.shape[axis])


@lowers(aten.slice_backward.default)
def _slice_backward(low, node, grad, _sizes, axis, start, _end, step):
    result = result_type(node)
    if step != 1:
        raise UserError("the gradient of a strided slice has no lowering to ONNX yet")
    if low.types[grad].shape == result.shape:
        return grad
    axis %= len(result.shape)
    return _pad(low, grad, result, axis, start % result.shape[axis])


def reduction(op: str) -> Callable:
    def function(low, node, x, axes=None, keepdim=False, **_):
        axes = [axes] if isinstance(axes, int) else axes
        inputs = [x] if not axes else [x, low.constant(list(axes), np.int64)]
        return low.emit(op, inputs, result_type(node), keepdims=int(keepdim))

    return function


LOWERINGS[aten.sum.dim_IntList] = LOWERINGS[aten.sum.default] = reduction("ReduceSum")
LOWERINGS[aten.mean.dim] = reduction("ReduceMean")
LOWERINGS[aten.amin.default] = reduction("ReduceMin")
LOWERINGS[aten.amax.default] = reduction("ReduceMax")


@lowers(aten._softmax.default)
def _softmax(low, node, x, axis, _half):
    return low.emit("Softmax", [x], result_type(node), axis=axis)


@lowers(aten._log_softmax.default)
def _log_softmax(low, node, x, axis, _half):
    return low.emit("LogSoftmax", [x], result_type(node), axis=axis)


@lowers(aten._log_softmax_backward_data.default)
def _log_softmax_backward(low, node, grad, output, axis, _dtype):
    result = result_type(node)
    shape = list(result.shape)
    shape[axis] = 1
    axes = low.constant([axis], np.int64)
    total = low.emit("ReduceSum", [grad, axes], TensorType(result.dtype, tuple(shape)), keepdims=1)
    scaled = low.emit("Mul", [low.emit("Exp", [output], result), total], result)
    return low.emit("Sub", [grad, scaled], result)


@lowers(aten.native_layer_norm.default)
def _native_layer_norm(low, node, x, shape, weight, bias, eps):
    results = [tensor_type(value) for value in node.meta["val"]]
    scale = weight or low.constant(np.ones(shape), np.float32)
    inputs = [x, scale] + ([bias] if bias else [])
    return low.emit("LayerNormalization", inputs, results, axis=-len(shape), epsilon=eps)


def _product_operand(low: Lowering, value: str) -> tuple[str, int]:
    """The matrix to read and whether the product is to transpose it."""
    transpose = int(value in low.transposed)
    value = low.transposed.get(value, value)
    return low.expanded.get(value, value), transpose


@lowers(aten.mm.default)
def _mm(low, node, a, b):
    (a, trans_a), (b, trans_b) = _product_operand(low, a), _product_operand(low, b)
    return low.emit("Gemm", [a, b], result_type(node), transA=trans_a, transB=trans_b)


@lowers(aten.addmm.default)
def _addmm(low, node, bias, a, b, beta=1, alpha=1):
    (a, trans_a), (b, trans_b) = _product_operand(low, a), _product_operand(low, b)
    return low.emit(
        "Gemm", [a, b, bias], result_type(node),
        transA=trans_a, transB=trans_b, alpha=float(alpha), beta=float(beta),
    )  # fmt: skip


@lowers(aten.bmm.default)
def _bmm(low, node, a, b):
    (a, trans_a), (b, trans_b) = _product_operand(low, a), _product_operand(low, b)
    return low.emit("FusedMatMul", [a, b], result_type(node), "com.microsoft", transA=trans_a, transB=trans_b)


@lowers(aten.convolution.default)
def _convolution(low, node, x, weight, bias, stride, padding, dilation, transposed, _output_padding, groups):
    if transposed:
        raise UserError("a transposed convolution has no lowering to ONNX yet")
    return low.emit(
        "Conv", [x, weight] + ([bias] if bias else []), result_type(node),
        strides=list(stride), pads=[*padding, *padding], dilations=list(dilation), group=groups,
    )  # fmt: skip


@lowers(aten.convolution_backward.default)
def _convolution_backward(low, node, grad, _x, _weight, *_settings):
    needs_input, needs_weight, _needs_bias = node.args[-1]
    if needs_input or needs_weight:
        raise UserError("the gradient of a convolution's input or weight has no lowering to ONNX yet")
    axes = [0, *range(2, len(low.types[grad].shape))]
    result = tensor_type(node.meta["val"][2])
    bias = low.emit("ReduceSum", [grad, low.constant(axes, np.int64)], result, keepdims=0)
    return [None, None, bias]
