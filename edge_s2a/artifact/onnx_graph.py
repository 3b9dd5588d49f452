"""Reads the nodes and types of a serialised ONNX model without the onnx package.

Only what a memory plan is checked against. The wire format is protobuf's (https://protobuf.dev/programming-guides/encoding),
field numbers are those of onnx.proto.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

# Bits of a value by TensorProto.DataType.
BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 21: 4, 22: 4}
# All that the packager writes, by domain. None reads a file, calls code, or holds a graph of its own.
OPERATORS = {
    "": {
        "Abs", "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "Cast", "Clip", "Col2Im", "Concat", "Conv",
        "ConvTranspose", "Cos", "CumSum", "DequantizeLinear", "Div", "Equal", "Erf", "Exp", "Expand", "Gather", "Gelu",
        "Gemm", "Greater", "GreaterOrEqual", "Identity", "LayerNormalization", "Less", "LessOrEqual", "Log",
        "LogSoftmax", "Max", "MaxPool", "Min", "Mul", "Neg", "Not", "Pad", "Pow", "QuantizeLinear", "Reciprocal",
        "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape",
        "ScatterND", "Shape", "Sigmoid", "Sign", "Sin", "Slice", "Softmax", "Split", "Sqrt", "Sub", "Tanh", "Tile",
        "Transpose", "Unsqueeze", "Where",
    },
    "com.microsoft": {"FusedMatMul", "MatMulIntegerToFloat"},
}  # fmt: skip
EXTERNAL = (13, 14)  # fields of a TensorProto: external_data, data_location
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class OnnxType(NamedTuple):
    """`times_batch` is the factor of the batch in the shape, 0 where the shape is fixed; `shape` holds the others."""

    bits: int
    shape: list[int]
    times_batch: int

    def bytes(self) -> int:
        """Of one image, or of the whole tensor where the shape is fixed."""
        return -(-self.bits * math.prod(self.shape) * max(1, self.times_batch) // 8)


class OnnxNode(NamedTuple):
    operator: str
    inputs: list[str]
    outputs: list[str]


class OnnxGraph(NamedTuple):
    """`types` covers inputs, outputs and whatever nodes make; `constant_bytes` are those of all initializers, of which
    there are `constants`."""

    inputs: list[str]
    outputs: list[str]
    nodes: list[OnnxNode]
    types: dict[str, OnnxType]
    constant_bytes: int
    constants: int


def read_onnx_graph(model: bytes) -> OnnxGraph:
    """Raises ValueError if `model` is not a well-formed ONNX model of OPERATORS alone, which holds all its constants,
    and whose values all have a known type and shape."""
    try:
        return _read_graph(_only(model, 7))
    except (IndexError, KeyError, UnicodeDecodeError, TypeError, AttributeError, StopIteration) as error:
        raise ValueError(f"not a readable ONNX model: {error!r}") from error


def _read_graph(buffer: bytes) -> OnnxGraph:
    inputs, outputs, nodes, types, constant_bytes, constants = [], [], [], {}, 0, 0
    known: dict[str, str] = {}  # a name is read many times and held once

    def name_of(text: bytes) -> str:
        return known.setdefault(text.decode(), text.decode())

    for field, value in _fields(buffer):
        if field == 1:
            parts = list(_fields(value))
            names = [[name_of(text) for number, text in parts if number == wanted] for wanted in (1, 2, 4)]
            operator, domain = names[2][0], _only(value, 7).decode()
            if operator not in OPERATORS.get(domain, ()):
                raise ValueError(f"operator {domain}:{operator}")
            nodes.append(OnnxNode(operator, names[0], names[1]))
        elif field == 5:
            parts = list(_fields(value))
            if any(number in EXTERNAL for number, _ in parts):
                raise ValueError("a constant that lies in another file")
            shape = [size for number, packed in parts if number == 1 for size in _varints(packed)]
            bits = BITS[next(number for field, number in parts if field == 2)]
            types[name_of(_only(value, 8))] = constant = OnnxType(bits, shape, 0)
            constant_bytes += constant.bytes()
            constants += 1
        elif field in (11, 12, 13):
            name = name_of(_only(value, 1))
            types[name] = _read_type(_only(_only(value, 2), 1))
            if field != 13:
                (inputs if field == 11 else outputs).append(name)
    untyped = {name for node in nodes for name in node.outputs if name} - types.keys()
    if untyped:
        raise ValueError(f"values of no type: {sorted(untyped)}")
    return OnnxGraph(inputs, outputs, nodes, types, constant_bytes, constants)


def _read_type(buffer: bytes) -> OnnxType:
    bits, shape, times_batch = 0, [], 0
    for field, value in _fields(buffer):
        if field == 1:
            bits = BITS[value]
        elif field == 2:
            for dimension in (part for number, part in _fields(value) if number == 1):
                [(kind, size)] = _fields(dimension)
                if kind == 1:
                    shape.append(size)
                    continue
                symbol = re.fullmatch(r"(?:(\d+)\*)?batch", size.decode())
                if symbol is None or times_batch:
                    raise ValueError(f"dimension {size!r}")
                times_batch = int(symbol[1] or 1)
    return OnnxType(bits, shape, times_batch)


def _only(buffer: bytes, wanted: int) -> bytes:
    found = [value for field, value in _fields(buffer) if field == wanted]
    return found[0] if found else b""


def _fields(buffer: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message: a number, or the bytes of text or of a message."""
    position = 0
    while position < len(buffer):
        tag, position = _varint(buffer, position)
        kind = tag & 7
        if kind == VARINT:
            value, position = _varint(buffer, position)
        elif kind in (BYTES, FIXED64, FIXED32):
            size = {FIXED64: 8, FIXED32: 4}.get(kind, 0)
            if kind == BYTES:
                size, position = _varint(buffer, position)
            value, position = buffer[position : position + size], position + size
            if position > len(buffer):
                raise ValueError("not a readable ONNX model: it ends within a field")
        else:
            raise ValueError(f"not a readable ONNX model: wire type {kind}")
        yield tag >> 3, value


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
