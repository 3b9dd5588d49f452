"""Keeps what autograd saves for the backward pass, in codes: one context around a model's forward pass.

The operators of this package decide *what* is saved (a derivative, a normalised input); the context decides
*how*: every float activation that any operator saves, torch's own included, goes through `keep`. So nothing
escapes: the saved tensors of an operator without a substitute here are coded too.
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import SymInt, Tensor
from torch.overrides import TorchFunctionMode

from edge_s2a.codec.reference import GROUP_SIZE, Levels, group_size, uniform_levels
from edge_s2a.host.trace import codes

Restore = Callable[[], Tensor]
Replacements = dict[Callable[..., Any], Callable[..., Tensor]]
Key = tuple[int, str, str, str, int]  # of the values of a tensor, see SavedTensors._key

# Activations of at most this many values per image are kept as floats: features of a small classifier, gates of
# squeeze-and-excitation. Coding them would save less than it costs in accuracy.
SMALL_VALUES = 512
COARSE_BITS = 4  # a Difference replaces a derivative up to this width


class Difference(NamedTuple):
    """f(x + step) - f(x), which is nearly step f'(x). It is coded in place of a derivative that takes more operators,
    where the code is too coarse to tell the two apart."""

    function: Callable[[], Tensor]
    step: float


class Mark(NamedTuple):
    """An operator's description of a tensor that it is about to save."""

    operator: str
    coding: str = "groups"  # "groups", "levels" or "half": see `encode`
    derivative_range: tuple[float, float] = (0.0, 1.0)  # of the values, for "levels"
    difference: Difference | None = None


# Takes the number of a saved tensor, its mark, and the tensor; returns how to get the tensor back.
Keep = Callable[[int, Mark, Tensor], Restore]


class SavedTensor(NamedTuple):
    """How one saved tensor is kept. `name` is operator and number in order of saving."""

    name: str
    coding: str  # "float": as it is; "half": float16; "groups": with scale and minimum; "levels": of a known range
    bits: int  # 32 for "float", 16 for "half"
    values_per_image: int
    derivative_range: tuple[float, float]
    levels: Levels | None = None

    @property
    def has_codes(self) -> bool:
        return self.coding in ("groups", "levels")


class SavedTensors(TorchFunctionMode):
    """Within this context torch's operators are replaced by those of `replacements`, and each float activation
    saved for the backward pass is given to `keep`.

    A tensor saved twice is kept once. Booleans are packed eight to a byte, losslessly; tensors of `constants`
    (parameters and buffers) stay what they are.
    """

    active: "SavedTensors | None" = None

    def __init__(self, keep: Keep, constants: list[Tensor], replacements: Replacements):
        super().__init__()
        self.keep, self.replacements = keep, replacements
        self.constants = {tensor.untyped_storage()._cdata for tensor in constants}
        self.count = 0
        self.marks: dict[Key, Mark] = {}
        self.kept: dict[Key, Restore] = {}
        self.alive: list[Tensor] = []  # a freed storage could be taken for another tensor's
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda restore: restore())

    def __enter__(self) -> "SavedTensors":
        SavedTensors.active = self
        self.hooks.__enter__()
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self.hooks.__exit__(kind, error, trace)
        SavedTensors.active = None
        self.marks, self.alive = {}, []

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: Sequence[Any] = (),
        keywords: dict[str, Any] | None = None,
    ) -> Any:
        replacement = self.replacements.get(function, function)
        return replacement(*arguments, **(keywords or {}))

    def pack(self, tensor: Tensor) -> Restore:
        if tensor.dtype == torch.bool:
            return self._once(tensor, keep_booleans)
        if tensor.dtype != torch.float32 or tensor.untyped_storage()._cdata in self.constants:
            return lambda: tensor
        return self._once(tensor, self._keep_next)

    def _once(self, tensor: Tensor, keep: Callable[[Tensor], Restore]) -> Restore:
        key = self._key(tensor)
        if key not in self.kept:
            self.kept[key] = keep(tensor)
        restore, shape = self.kept[key], tensor.shape
        return lambda: restore().view(shape)

    def _keep_next(self, tensor: Tensor) -> Restore:
        self.count += 1
        return self.keep(self.count - 1, self.marks.get(self._key(tensor), Mark("operand")), tensor)

    def _key(self, tensor: Tensor) -> Key:
        """Equal for tensors that hold the same values in the same order. Sizes are text, for they may be symbols."""
        self.alive.append(tensor)
        strides = "" if tensor.is_contiguous() else str(tensor.stride())
        storage = tensor.untyped_storage()._cdata
        return storage, str(tensor.storage_offset()), str(tensor.numel()), strides, tensor._version


def mark(tensor: Tensor, description: Mark) -> Tensor:
    """Tells the active context what `tensor` is, before it is saved; returns it."""
    if SavedTensors.active is not None:
        SavedTensors.active.marks[SavedTensors.active._key(tensor)] = description
    return tensor


def derive(tensor: Tensor, source: Tensor, function: Callable[[Tensor], Tensor]) -> None:
    """Says that `tensor` is function(source): if it is saved later, and `source` was already, it is computed from the
    kept `source` instead."""
    active = SavedTensors.active
    if active is None:
        return
    restore, shape = active.kept.get(active._key(source)), source.shape
    if restore is not None:
        active.kept[active._key(tensor)] = lambda: function(restore().view(shape))


def keep_booleans(tensor: Tensor) -> Restore:
    rows = as_rows_of_bits(tensor.to(torch.uint8))
    packed, n, shape = codes.pack(rows, 1), rows.shape[-1], tensor.shape
    return lambda: codes.unpack(packed, 1, n).view(shape).to(torch.bool)


def as_rows(x: Tensor) -> Tensor:
    """(rows, n): the last axis where it is long enough for groups, otherwise all but the first, so that the
    planes of a feature map share groups."""
    if x.ndim < 3 or group_size(x.shape[-1]) >= GROUP_SIZE // 2 or any(isinstance(n, SymInt) for n in x.shape[1:]):
        return x.reshape(-1, x.shape[-1])
    return x.reshape(x.shape[0], -1)


def as_rows_of_bits(x: Tensor) -> Tensor:
    """(rows, n), rows as long as they can be: the engine is faster with these."""
    if x.ndim < 2 or any(isinstance(n, SymInt) for n in x.shape[1:]):
        return x.reshape(-1, x.shape[-1])
    return x.reshape(x.shape[0], -1)


def describe(index: int, description: Mark, tensor: Tensor) -> SavedTensor:
    """The entry of a tensor that was seen with a symbolic batch size; it is kept exactly."""
    values = values_per_image(tensor)
    coding = description.coding if values > SMALL_VALUES else "float"
    return SavedTensor(f"{description.operator}.{index}", coding, 32, values, description.derivative_range)


def values_per_image(tensor: Tensor) -> int:
    """0 where the size does not depend on the batch."""
    numel = tensor.numel()
    if not isinstance(numel, SymInt) or numel.node.expr.is_number:
        return 0
    (symbol,) = numel.node.expr.free_symbols
    return int(numel.node.expr / symbol)


def with_bits(scheme: list[SavedTensor], bits: int) -> list[SavedTensor]:
    """The scheme with every coded tensor at `bits`, derivatives at uniform levels."""
    return [entry if entry.coding == "float" else at_bits(entry, bits) for entry in scheme]


def at_bits(entry: SavedTensor, bits: int) -> SavedTensor:
    if entry.coding == "half":
        return entry._replace(bits=32 if bits == 32 else 16)
    levels = uniform_levels(*entry.derivative_range, bits) if entry.coding == "levels" and bits < 32 else None
    return entry._replace(bits=bits, levels=levels)


def mean_bits(scheme: list[SavedTensor]) -> float:
    """Mean bits per coded value, without the scales of groups; 0 if nothing is coded."""
    values = sum(entry.values_per_image for entry in scheme if entry.has_codes)
    return sum(entry.values_per_image * entry.bits for entry in scheme if entry.has_codes) / max(values, 1)


def levels_of(scheme: list[SavedTensor]) -> str:
    """ "fitted" or "uniform"."""
    return "fitted" if any(entry.levels and entry.levels.decode is not None for entry in scheme) else "uniform"


def encode(entry: SavedTensor, tensor: Tensor, difference: Difference | None = None) -> Restore:
    """Codes `tensor` (any shape, float32) as `entry` says, or `difference` in its place; returns the decoder."""
    if entry.bits == 32:
        return lambda: tensor
    if entry.bits == 16:
        half = codes.to_half(tensor)
        return lambda: half.float()
    rows, shape, bits, levels = as_rows(tensor), tensor.shape, entry.bits, entry.levels
    n = rows.shape[-1]
    if levels is not None and difference is not None and bits <= COARSE_BITS:
        scaled = codes.levels_of_multiple(levels, difference.step)
        packed = codes.encode_levels(as_rows(difference.function()), bits, scaled)
        return lambda: codes.decode_levels(packed, bits, n, levels).view(shape)
    if levels is not None:
        packed = codes.encode_levels(rows, bits, levels)
        return lambda: codes.decode_levels(packed, bits, n, levels).view(shape)
    groups = codes.encode_groups(rows, bits)
    return lambda: codes.decode_groups(groups, bits, n).view(shape)


def keep_by(scheme: list[SavedTensor]) -> Keep:
    """A `keep` that follows `scheme`, which was observed on the same model and adapter."""

    def keep(index: int, description: Mark, tensor: Tensor) -> Restore:
        entry = scheme[index]
        if entry.name != f"{description.operator}.{index}":
            raise AssertionError(f"saved tensor {index} is of {description.operator}, the scheme has {entry.name}")
        return encode(entry, tensor, description.difference)

    return keep
