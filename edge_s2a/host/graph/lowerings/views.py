"""Operators that move values: views, joins, slices, padding."""

import operator

import numpy as np
import torch

from edge_s2a.errors import UserError
from edge_s2a.host.graph.ir import TensorType
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
def _view(low, node, x, *_):
    return low.reshape(x, result_type(node).shape)


@lowers(aten.clone.default, aten.detach.default, aten.alias.default)
def _same(low, node, x, **_):
    return x


@lowers(aten.copy.default)
def _copy(low, node, _destination, source, _non_blocking=False):
    return source


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
        return low.repeat(x, result_type(node))
    return low.emit("Expand", [x, low.shape_vector(shape)], result_type(node))


@lowers(aten.ones_like.default)
def _ones_like(low, node, x, **_):
    return _filled(low, node, 1)


@lowers(
    aten.zeros_like.default,
    aten.new_zeros.default,
    aten.zeros.default,
    aten.new_empty_strided.default,
    aten.empty_like.default,
)
def _zeros(low, node, *_, **__):
    return _filled(low, node, 0)


@lowers(aten.full.default, aten.new_full.default, aten.full_like.default)
def _full(low, node, _shape, value, **_):
    return _filled(low, node, value)


@lowers(aten.scalar_tensor.default)
def _scalar_tensor(low, node, value, **_):
    return _filled(low, node, value)


def _filled(low, node, value):
    result = result_type(node)
    scalar = low.constant(value, result.dtype)
    return scalar if result.shape == () else low.emit("Expand", [scalar, low.shape_vector(result.shape)], result)


@lowers(aten.repeat.default)
def _repeat(low, node, x, counts):
    result = result_type(node)
    rank = len(low.types[x].shape)
    if len(counts) != rank:
        x = low.reshape(x, (*[1] * (len(counts) - rank), *low.types[x].shape))
    shape = low.types[x].shape
    if all(before in (1, after) for before, after in zip(shape, result.shape, strict=True)):
        return low.emit("Expand", [x, low.shape_vector(result.shape)], result)
    if not all(isinstance(count, int) for count in counts):
        raise UserError("a repetition that depends on the batch size has no lowering to ONNX yet; choose another model")
    return low.emit("Tile", [x, low.constant(counts, np.int64)], result)


@lowers(aten.roll.default)
def _roll(low, node, x, shifts, axes):
    """Each axis is cut where its end comes to stand and the parts change places."""
    for shift, axis in zip(shifts, axes, strict=True):
        shape = low.types[x].shape
        size = shape[axis]
        kept = (size - shift) % size
        if kept == 0:
            continue
        parts = [
            TensorType(low.types[x].dtype, (*shape[:axis], length, *shape[axis + 1 :]))
            for length in (kept, size - kept)
        ]
        first, second = low.emit("Split", [x, low.constant([kept, size - kept], np.int64)], parts, axis=axis)
        x = low.emit("Concat", [second, first], low.types[x], axis=axis)
    return x


@lowers(aten.flip.default)
def _flip(low, node, x, axes):
    steps = [low.constant([value] * len(axes), np.int64) for value in (-1, -(2**31), -1)]
    return low.emit("Slice", [x, steps[0], steps[1], low.constant(axes, np.int64), steps[2]], result_type(node))


@lowers(aten.constant_pad_nd.default)
def _constant_pad(low, node, x, padding, value=0):
    """padding: (before, after) from the last axis on; a negative one cuts off."""
    result = result_type(node)
    rank = len(result.shape)
    before, after = [0] * rank, [0] * rank
    for index in range(len(padding) // 2):
        before[rank - 1 - index], after[rank - 1 - index] = padding[2 * index : 2 * index + 2]
    inputs = [x, low.constant([*before, *after], np.int64)]
    if value:
        inputs.append(low.constant(value, result.dtype))
    return low.emit("Pad", inputs, result, mode="constant")


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


@lowers(aten.index.Tensor)
def _index(low, node, x, indices):
    axis = only_index(indices)
    return low.emit("Gather", [x, indices[axis]], result_type(node), axis=axis)


@lowers(aten.index_put.default, aten._unsafe_index_put.default)
def _index_put(low, node, x, indices, values, accumulate=False):
    """Gradient of `_index` by one vector."""
    axis = only_index(indices)
    dtype, shape = low.types[indices[axis]]
    if not accumulate or (axis and len(shape) != 1):
        raise UserError("writing through an index has no lowering to ONNX yet; choose another model")
    column = low.emit("Unsqueeze", [indices[axis], low.constant([-1], np.int64)], TensorType(dtype, (*shape, 1)))
    operands = [_swap(low, value, 0, axis) for value in (x, values)]
    added = low.emit("ScatterND", [operands[0], column, operands[1]], low.types[operands[0]], reduction="add")
    return _swap(low, added, 0, axis)


def _swap(low, value: str, first: int, second: int) -> str:
    """`value` with two axes exchanged."""
    if first == second:
        return value
    dtype, shape = low.types[value]
    permutation = list(range(len(shape)))
    permutation[first], permutation[second] = second, first
    result = TensorType(dtype, tuple(shape[axis] for axis in permutation))
    return low.emit("Transpose", [value], result, perm=permutation)


def only_index(indices) -> int:
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    if len(axes) != 1:
        raise UserError("an index over several axes has no lowering to ONNX yet; choose another model")
    return axes[0]


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
    if low.types[grad].shape == result.shape:
        return grad
    axis %= len(result.shape)
    if step != 1:
        grad = _spread(low, grad, axis, step)
    return _pad(low, grad, result, axis, start % result.shape[axis])


def _spread(low, value: str, axis: int, step: int) -> str:
    """step - 1 zeros between neighbours along `axis`."""
    dtype, shape = low.types[value]
    before, size, after = shape[:axis], shape[axis], shape[axis + 1 :]
    column = low.reshape(value, (*before, size, 1, *after))
    padded = _pad(low, column, TensorType(dtype, (*before, size, step, *after)), axis + 1, 0)
    row = low.reshape(padded, (*before, size * step, *after))
    bounds = [low.constant([bound], np.int64) for bound in (0, (size - 1) * step + 1, axis)]
    return low.emit("Slice", [row, *bounds], TensorType(dtype, (*before, (size - 1) * step + 1, *after)))
