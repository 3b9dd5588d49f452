"""Reads the nodes and types of a serialised ONNX model without the onnx package.

It reads only what a memory plan is checked against. The wire format is that of protobuf
(https://protobuf.dev/programming-guides/encoding), field numbers are those of onnx.proto.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from edge_s2a.artifact.operators import is_allowed

# Bits of a value by TensorProto.DataType.
BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 21: 4, 22: 4}
EXTERNAL = (13, 14)  # fields of a TensorProto: external_data, data_location
FUNCTIONS = 25  # a field of a ModelProto
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class OnnxType(NamedTuple):
    """The type of a value: `times_batch` is the factor of the batch in its shape, 0 where the shape is fixed; `shape`
    holds the other dimensions."""

    bits: int
    shape: list[int]
    times_batch: int

    def bytes(self) -> int:
        """Bytes per image, or of the whole tensor where the shape is fixed."""
        return -(-self.bits * math.prod(self.shape) * max(1, self.times_batch) // 8)


class OnnxNode(NamedTuple):
    operator: str
    inputs: list[str]
    outputs: list[str]


class OnnxGraph(NamedTuple):
    """What a memory plan is checked against. `types` covers the inputs, the outputs and every value that a node makes;
    `constant_bytes` is the total size of the `constants` initializers."""

    inputs: list[str]
    outputs: list[str]
    nodes: list[OnnxNode]
    types: dict[str, OnnxType]
    constant_bytes: int
    constants: int


def read_onnx_graph(model: bytes) -> OnnxGraph:
    """Raises ValueError unless `model` is a well-formed ONNX model that holds only operators of
    `artifact.operators.OPERATORS` and all of its constants, and every value has a known type and shape."""
    try:
        if any(field == FUNCTIONS for field, _ in _fields(model)):
            raise ValueError("functions of its own")
        return _read_graph(_only(model, 7))
    except (IndexError, KeyError, UnicodeDecodeError, TypeError, AttributeError, StopIteration) as error:
        raise ValueError(f"not a readable ONNX model: {error!r}") from error


def _read_graph(buffer: bytes) -> OnnxGraph:
    inputs: list[str] = []
    outputs: list[str] = []
    nodes: list[OnnxNode] = []
    types: dict[str, OnnxType] = {}
    constant_bytes = constants = 0
    known: dict[str, str] = {}  # each name is read many times and held once

    def name_of(text: bytes) -> str:
        return known.setdefault(text.decode(), text.decode())

    for field, value in _fields(buffer):
        if field == 1:
            nodes.append(_read_node(_as_bytes(value), name_of))
        elif field == 5:
            text, constant = _read_constant(_as_bytes(value))
            types[name_of(text)] = constant
            constant_bytes += constant.bytes()
            constants += 1
        elif field in (11, 12, 13):
            name = name_of(_only(_as_bytes(value), 1))
            types[name] = _read_type(_only(_only(_as_bytes(value), 2), 1))
            if field != 13:
                (inputs if field == 11 else outputs).append(name)
    untyped = {name for node in nodes for name in node.outputs if name} - types.keys()
    if untyped:
        raise ValueError(f"values of no type: {sorted(untyped)}")
    return OnnxGraph(inputs, outputs, nodes, types, constant_bytes, constants)


def _read_node(buffer: bytes, name_of: Callable[[bytes], str]) -> OnnxNode:
    parts = list(_fields(buffer))
    inputs, outputs = ([name_of(_as_bytes(text)) for field, text in parts if field == wanted] for wanted in (1, 2))
    operator, domain = name_of(_only(buffer, 4)), _only(buffer, 7).decode()
    if not is_allowed(operator, domain):
        raise ValueError(f"operator {domain}:{operator}")
    return OnnxNode(operator, inputs, outputs)


def _read_constant(buffer: bytes) -> tuple[bytes, OnnxType]:
    """(name, type) of a TensorProto."""
    parts = list(_fields(buffer))
    if any(number in EXTERNAL for number, _ in parts):
        raise ValueError("a constant that lies in another file")
    shape = [size for number, packed in parts if number == 1 for size in _varints(packed)]
    [data_type] = [value for number, value in parts if number == 2]
    return _only(buffer, 8), OnnxType(BITS[_as_number(data_type)], shape, 0)


def _read_type(buffer: bytes) -> OnnxType:
    bits, times_batch = 0, 0
    shape: list[int] = []
    for field, value in _fields(buffer):
        if field == 1:
            bits = BITS[_as_number(value)]
        elif field == 2:
            for dimension in (part for number, part in _fields(_as_bytes(value)) if number == 1):
                [(kind, size)] = _fields(_as_bytes(dimension))
                if kind == 1:
                    shape.append(_as_number(size))
                    continue
                symbol = re.fullmatch(r"(?:(\d+)\*)?batch", _as_bytes(size).decode())
                if symbol is None or times_batch:
                    raise ValueError(f"dimension {size!r}")
                times_batch = int(symbol[1] or 1)
    return OnnxType(bits, shape, times_batch)


def _only(buffer: bytes, wanted: int) -> bytes:
    """The text or message in field `wanted`; empty where there is none. Of two, protobuf takes the last text and merges
    messages, so what is read here would not be what the engine runs: raises ValueError."""
    found = [_as_bytes(value) for field, value in _fields(buffer) if field == wanted]
    if len(found) > 1:
        raise ValueError(f"field {wanted} is given {len(found)} times")
    return found[0] if found else b""


def _as_bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number where a text or a message belongs")
    return value


def _as_number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise TypeError("a text or a message where a number belongs")
    return value


def _fields(buffer: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message: a number, or the bytes of a text or of a message."""
    position = 0
    while position < len(buffer):
        tag, position = _varint(buffer, position)
        kind = tag & 7
        if kind == VARINT:
            number, position = _varint(buffer, position)
            yield tag >> 3, number
        elif kind in (BYTES, FIXED64, FIXED32):
            size = {FIXED64: 8, FIXED32: 4}.get(kind, 0)
            if kind == BYTES:
                size, position = _varint(buffer, position)
            value, position = buffer[position : position + size], position + size
            if position > len(buffer):
                raise ValueError("not a readable ONNX model: it ends within a field")
            yield tag >> 3, value
        else:
            raise ValueError(f"not a readable ONNX model: wire type {kind}")


def _varint(buffer: bytes, position: int) -> tuple[int, int]:
    """(value, position after it)."""
    value = shift = 0
    while True:
        byte = buffer[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position
        if shift > 63:
            raise ValueError("not a readable ONNX model: a number without end")


def _varints(value: int | bytes) -> Iterator[int]:
    """The numbers of a repeated field, which may be packed."""
    if isinstance(value, int):
        yield value
        return
    position = 0
    while position < len(value):
        number, position = _varint(value, position)
        yield number
