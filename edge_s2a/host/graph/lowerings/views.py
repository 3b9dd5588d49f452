"""Operators that move values: views, joins, slices, padding."""

import operator

import numpy as np
import torch
from torch import fx

from edge_s2a.errors import UserError
from edge_s2a.host.graph.builder import GraphBuilder
from edge_s2a.host.graph.ir import TensorType, fixed
from edge_s2a.host.graph.lowerings.table import LOWERINGS, lowers, result_type, tensor_type

aten = torch.ops.aten


@lowers(
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
def _view(graph: GraphBuilder, node: fx.Node, x: str, *_: object) -> str:
    return graph.reshape(x, result_type(node).shape)


@lowers(aten.clone.default, aten.detach.default, aten.alias.default)
def _same(graph: GraphBuilder, node: fx.Node, x: str, **_: object) -> str:
    return x


@lowers(aten.copy.default)
def _copy(graph: GraphBuilder, node: fx.Node, _destination: str, source: str, _non_blocking: bool = False) -> str:
    return source


@lowers(operator.getitem)
def _getitem(graph: GraphBuilder, node: fx.Node, values: list[str], index: int) -> str:
    return values[index]


def _swap_last(graph: GraphBuilder, value: str, result: TensorType) -> str:
    if value in graph.transposed:
        return graph.transposed[value]
    name = f"transposed_{len(graph.types)}"
    graph.types[name] = result
    graph.transposed[name] = value
    return name


def _permute(graph: GraphBuilder, node: fx.Node, x: str, permutation: list[int]) -> str:
    rank = len(permutation)
    permutation = [axis % rank for axis in permutation]
    if permutation == list(range(rank)):
        return x
    if permutation == [*range(rank - 2), rank - 1, rank - 2]:
        return _swap_last(graph, x, result_type(node))
    return graph.emit("Transpose", [x], result_type(node), perm=permutation)


LOWERINGS[aten.permute.default] = _permute


@lowers(aten.transpose.int)
def _transpose(graph: GraphBuilder, node: fx.Node, x: str, first: int, second: int) -> str:
    permutation = list(range(len(result_type(node).shape)))
    permutation[first], permutation[second] = permutation[second], permutation[first]
    return _permute(graph, node, x, permutation)


@lowers(aten.t.default)
def _t(graph: GraphBuilder, node: fx.Node, x: str) -> str:
    return _swap_last(graph, x, result_type(node))


@lowers(aten.expand.default)
def _expand(graph: GraphBuilder, node: fx.Node, x: str, *_: object, **__: object) -> str:
    shape = result_type(node).shape
    if graph.types[x].shape == shape:
        return x
    if len(shape) == 3 and graph.types[x].shape[-2:] == shape[-2:]:
        return graph.repeat(x, result_type(node))
    return graph.emit("Expand", [x, graph.shape_vector(shape)], result_type(node))


@lowers(aten.ones_like.default)
def _ones_like(graph: GraphBuilder, node: fx.Node, x: str, **_: object) -> str:
    return _filled(graph, node, 1)


@lowers(
    aten.zeros_like.default,
    aten.new_zeros.default,
    aten.zeros.default,
    aten.new_empty_strided.default,
    aten.empty_like.default,
)
def _zeros(graph: GraphBuilder, node: fx.Node, *_: object, **__: object) -> str:
    return _filled(graph, node, 0)


@lowers(aten.full.default, aten.new_full.default, aten.full_like.default)
def _full(graph: GraphBuilder, node: fx.Node, _shape: object, value: float, **_: object) -> str:
    return _filled(graph, node, value)


@lowers(aten.scalar_tensor.default)
def _scalar_tensor(graph: GraphBuilder, node: fx.Node, value: float, **_: object) -> str:
    return _filled(graph, node, value)


def _filled(graph: GraphBuilder, node: fx.Node, value: float) -> str:
    result = result_type(node)
    scalar = graph.constant(value, result.dtype)
    return scalar if result.shape == () else graph.emit("Expand", [scalar, graph.shape_vector(result.shape)], result)


@lowers(aten.repeat.default)
def _repeat(graph: GraphBuilder, node: fx.Node, x: str, counts: list[int]) -> str:
    result = result_type(node)
    rank = len(graph.types[x].shape)
    if len(counts) != rank:
        x = graph.reshape(x, (*[1] * (len(counts) - rank), *graph.types[x].shape))
    shape = graph.types[x].shape
    if all(before in (1, after) for before, after in zip(shape, result.shape, strict=True)):
        return graph.emit("Expand", [x, graph.shape_vector(result.shape)], result)
    if not all(isinstance(count, int) for count in counts):
        raise UserError("a repetition that depends on the batch size has no lowering to ONNX yet; choose another model")
    return graph.emit("Tile", [x, graph.constant(counts, np.int64)], result)


@lowers(aten.roll.default)
def _roll(graph: GraphBuilder, node: fx.Node, x: str, shifts: list[int], axes: list[int]) -> str:
    """Each axis is cut in two, and the parts change places."""
    for shift, axis in zip(shifts, axes, strict=True):
        shape = graph.types[x].shape
        size = fixed(shape[axis])
        kept = (size - shift) % size
        if kept == 0:
            continue
        parts = [
            TensorType(graph.types[x].dtype, (*shape[:axis], length, *shape[axis + 1 :]))
            for length in (kept, size - kept)
        ]
        first, second = graph.emit_several(
            "Split", [x, graph.constant([kept, size - kept], np.int64)], parts, axis=axis
        )
        x = graph.emit("Concat", [second, first], graph.types[x], axis=axis)
    return x


@lowers(aten.flip.default)
def _flip(graph: GraphBuilder, node: fx.Node, x: str, axes: list[int]) -> str:
    steps = [graph.constant([value] * len(axes), np.int64) for value in (-1, -(2**31), -1)]
    return graph.emit("Slice", [x, steps[0], steps[1], graph.constant(axes, np.int64), steps[2]], result_type(node))


@lowers(aten.constant_pad_nd.default)
def _constant_pad(graph: GraphBuilder, node: fx.Node, x: str, padding: list[int], value: float = 0) -> str:
    """padding: (before, after) of each axis, the last axis first; a negative one cuts off."""
    result = result_type(node)
    rank = len(result.shape)
    before, after = [0] * rank, [0] * rank
    for index in range(len(padding) // 2):
        before[rank - 1 - index], after[rank - 1 - index] = padding[2 * index : 2 * index + 2]
    inputs = [x, graph.constant([*before, *after], np.int64)]
    if value:
        inputs.append(graph.constant(value, result.dtype))
    return graph.emit("Pad", inputs, result, mode="constant")


@lowers(aten.cat.default)
def _cat(graph: GraphBuilder, node: fx.Node, values: list[str], axis: int = 0) -> str:
    return graph.emit("Concat", list(values), result_type(node), axis=axis)


@lowers(aten.stack.default)
def _stack(graph: GraphBuilder, node: fx.Node, values: list[str], axis: int = 0) -> str:
    result = result_type(node)
    axis %= len(result.shape)
    part = (*result.shape[:axis], 1, *result.shape[axis + 1 :])
    return graph.emit("Concat", [graph.reshape(value, part) for value in values], result, axis=axis)


@lowers(aten.split.Tensor, aten.split_with_sizes.default)
def _split(graph: GraphBuilder, node: fx.Node, x: str, _sizes: object, axis: int = 0) -> list[str]:
    results = [tensor_type(value) for value in node.meta["val"]]
    lengths = graph.constant([result.shape[axis] for result in results], np.int64)
    return graph.emit_several("Split", [x, lengths], results, axis=axis)


@lowers(aten.unbind.int)
def _unbind(graph: GraphBuilder, node: fx.Node, x: str, axis: int = 0) -> list[str]:
    shape = graph.types[x].shape
    axis %= len(shape)
    results = [tensor_type(value) for value in node.meta["val"]]
    part = TensorType(graph.types[x].dtype, (*shape[:axis], 1, *shape[axis + 1 :]))
    lengths = graph.constant([1] * len(results), np.int64)
    parts = graph.emit_several("Split", [x, lengths], [part] * len(results), axis=axis)
    return [graph.reshape(value, result.shape) for value, result in zip(parts, results, strict=True)]


@lowers(aten.select.int)
def _select(graph: GraphBuilder, node: fx.Node, x: str, axis: int, index: int) -> str:
    return graph.emit("Gather", [x, graph.constant(index, np.int64)], result_type(node), axis=axis)


@lowers(aten.index.Tensor)
def _index(graph: GraphBuilder, node: fx.Node, x: str, indices: list[str | None]) -> str:
    axis, index = only_index(indices)
    return graph.emit("Gather", [x, index], result_type(node), axis=axis)


@lowers(aten.index_put.default, aten._unsafe_index_put.default)
def _index_put(
    graph: GraphBuilder, node: fx.Node, x: str, indices: list[str | None], values: str, accumulate: bool = False
) -> str:
    """The gradient of `_index` by one vector."""
    axis, index = only_index(indices)
    dtype, shape = graph.types[index]
    if not accumulate or (axis and len(shape) != 1):
        raise UserError("writing through an index has no lowering to ONNX yet; choose another model")
    column = graph.emit("Unsqueeze", [index, graph.constant([-1], np.int64)], TensorType(dtype, (*shape, 1)))
    operands = [_swap(graph, value, 0, axis) for value in (x, values)]
    added = graph.emit("ScatterND", [operands[0], column, operands[1]], graph.types[operands[0]], reduction="add")
    return _swap(graph, added, 0, axis)


def _swap(graph: GraphBuilder, value: str, first: int, second: int) -> str:
    """`value` with two axes exchanged."""
    if first == second:
        return value
    dtype, shape = graph.types[value]
    permutation = list(range(len(shape)))
    permutation[first], permutation[second] = second, first
    result = TensorType(dtype, tuple(shape[axis] for axis in permutation))
    return graph.emit("Transpose", [value], result, perm=permutation)


def only_index(indices: list[str | None]) -> tuple[int, str]:
    """(axis, index) where one axis alone is indexed."""
    found = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(found) != 1:
        raise UserError("an index over several axes has no lowering to ONNX yet; choose another model")
    return found[0]


@lowers(aten.slice.Tensor)
def _slice(
    graph: GraphBuilder,
    node: fx.Node,
    x: str,
    axis: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> str:
    if graph.types[x].shape == result_type(node).shape:
        return x
    size = fixed(graph.types[x].shape[axis])
    bounds = [start or 0, size if end is None else min(end, size), axis, step]
    return graph.emit("Slice", [x, *(graph.constant([b], np.int64) for b in bounds)], result_type(node))


def _pad(graph: GraphBuilder, value: str, result: TensorType, axis: int, start: int) -> str:
    """`value` at `start` of `axis` of a tensor that is zero elsewhere."""
    rank = len(result.shape)
    pads = [0] * (2 * rank)
    pads[axis] = start
    pads[rank + axis] = fixed(result.shape[axis]) - fixed(graph.types[value].shape[axis]) - start
    return graph.emit("Pad", [value, graph.constant(pads, np.int64)], result, mode="constant")


@lowers(aten.select_backward.default)
def _select_backward(graph: GraphBuilder, node: fx.Node, grad: str, _sizes: object, axis: int, index: int) -> str:
    result = result_type(node)
    axis %= len(result.shape)
    part = graph.reshape(grad, (*result.shape[:axis], 1, *result.shape[axis + 1 :]))
    return _pad(graph, part, result, axis, index % fixed(result.shape[axis]))


@lowers(aten.slice_backward.default)
def _slice_backward(
    graph: GraphBuilder, node: fx.Node, grad: str, _sizes: object, axis: int, start: int, _end: object, step: int
) -> str:
    result = result_type(node)
    if graph.types[grad].shape == result.shape:
        return grad
    axis %= len(result.shape)
    if step != 1:
        grad = _spread(graph, grad, axis, step)
    return _pad(graph, grad, result, axis, start % fixed(result.shape[axis]))


def _spread(graph: GraphBuilder, value: str, axis: int, step: int) -> str:
    """step - 1 zeros between neighbours along `axis`."""
    dtype, shape = graph.types[value]
    before, size, after = shape[:axis], fixed(shape[axis]), shape[axis + 1 :]
    column = graph.reshape(value, (*before, size, 1, *after))
    padded = _pad(graph, column, TensorType(dtype, (*before, size, step, *after)), axis + 1, 0)
    row = graph.reshape(padded, (*before, size * step, *after))
    bounds = [graph.constant([bound], np.int64) for bound in (0, (size - 1) * step + 1, axis)]
    return graph.emit("Slice", [row, *bounds], TensorType(dtype, (*before, (size - 1) * step + 1, *after)))
