"""A graph under construction: the building blocks of which lowerings make ONNX nodes.

Built for little memory: views are Reshape, which moves nothing; transposes disappear into the products that read
them; a frozen weight is dequantised before each use, so that no float copy of it outlives its product.
"""

import hashlib
from typing import Any

import numpy as np

from edge_s2a.artifact.names import IMAGE
from edge_s2a.artifact.operators import is_allowed
from edge_s2a.host.graph.ir import FLOAT32, INT64, UINT8, VIEW, Batch, Dimension, Node, TensorType, fixed
from edge_s2a.host.int4 import ZERO
from edge_s2a.host.weights import FrozenWeights

# Computed constants of more bytes go to the weights, which the device maps instead of holding them in memory.
LARGEST_CONSTANT_BYTES = 4096


class GraphBuilder:
    """Nodes, constants and types of a graph that grows, values being known by name."""

    def __init__(self, weights: FrozenWeights):
        self.weights = weights
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.types: dict[str, TensorType] = {}
        self.used_weights: dict[str, None] = {}
        # value -> the value it is the matrix transpose of, as long as nobody needs it in memory
        self.transposed: dict[str, str] = {}
        # value -> the matrix it repeats for each image, likewise; products broadcast it instead
        self.expanded: dict[str, str] = {}
        self.is_backward = False  # of the nodes that come now
        self.lowered = ""  # the torch operator that they come from

    def emit(self, operator: str, inputs: list[str], result: TensorType, domain: str = "", **attributes: Any) -> str:
        """Appends a node with one output and returns the name of that."""
        return self.emit_several(operator, inputs, [result], domain, **attributes)[0]

    def emit_several(
        self, operator: str, inputs: list[str], results: list[TensorType], domain: str = "", **attributes: Any
    ) -> list[str]:
        """Appends a node with an output for each of `results` and returns their names."""
        operands = [self.operand(value) if value else "" for value in inputs]
        names = []
        for result in results:
            names.append(self.new_name(operator))
            self.types[names[-1]] = result
        self._append(operator, operands, names, domain, attributes)
        return names

    def emit_as(self, output: str, operator: str, inputs: list[str], **attributes: Any) -> str:
        """Appends a node that makes the value `output`, whose type is known, from inputs that are in memory."""
        self._append(operator, inputs, [output], "", attributes)
        return output

    def _append(
        self, operator: str, inputs: list[str], outputs: list[str], domain: str, attributes: dict[str, Any]
    ) -> None:
        if not is_allowed(operator, domain):
            name = f"{domain}:{operator}" if domain else operator
            raise AssertionError(
                f"{self.lowered} is lowered to the ONNX operator {name}, which no artifact may hold; add it to "
                "edge_s2a/artifact/operators.py, and how the engine runs it to host/targets/onnxruntime/rules.py"
            )
        self.nodes.append(Node(operator, inputs, outputs, attributes, domain, self.is_backward))

    def repeat(self, value: str, result: TensorType) -> str:
        """`value` for each image, as `result`; in memory only if something other than a product reads it."""
        name = self.new_name("expanded")
        self.types[name] = result
        self.expanded[name] = value
        return name

    def new_name(self, stem: str) -> str:
        return f"{stem}_{len(self.types)}_{len(self.nodes)}"

    def operand(self, value: str) -> str:
        """The name under which a node reads `value`: frozen weights in float32, transposes in memory."""
        if value in self.transposed:
            rank = len(self.types[value].shape)
            permutation = [*range(rank - 2), rank - 1, rank - 2]
            return self.emit_as(value, "Transpose", [self.operand(self.transposed.pop(value))], perm=permutation)
        if value in self.expanded:
            shape = self.shape_vector(self.types[value].shape)
            return self.emit_as(value, "Expand", [self.operand(self.expanded.pop(value)), shape])
        if value not in self.weights.formats:
            return value
        return self.dequantized_weight(value)

    # -- weights ---------------------------------------------------------------------------------------

    def weight_members(self, name: str) -> list[str]:
        """The arrays that hold a frozen weight, as inputs of the graph."""
        members = self.weights.members(name)
        for member in members:
            self.used_weights[member] = None
            array = self.weights.arrays[member]
            self.types[member] = TensorType(array.dtype, array.shape)
        return members

    def dequantized_weight(self, name: str) -> str:
        members = self.weight_members(name)
        if self.weights.formats[name] == "fp32":
            return name
        if self.weights.formats[name] == "int4":
            packed, scale = members
            return self.dequantized_blocks(packed, scale, self.types[name].shape)
        result = self.new_name("weight")
        self.types[result] = TensorType(FLOAT32, self.types[name].shape)
        if self.weights.formats[name] == "int8":
            return self.emit_as(result, "DequantizeLinear", members, axis=0)
        return self.emit_as(result, "Cast", members, to=FLOAT32)

    def dequantized_blocks(self, packed: str, scale: str, shape: tuple[Dimension, ...]) -> str:
        """The float32 weight of which `quantize_blocks` made `packed` and `scale`. Codes are unpacked to a byte each:
        onnxruntime 1.19 cannot bind a tensor of type UINT4 to mapped memory, and 1.32 dequantises one more slowly than
        bytes (8 against 2 ms for a matrix of 768 x 3072), and so it does blocks given by `block_size` instead of a
        view."""
        half, blocks = fixed(self.types[packed].shape[0]), fixed(self.types[scale].shape[0])
        part = TensorType(UINT8, (half,))
        low = self.emit("BitwiseAnd", [packed, self.constant(15, UINT8)], part)
        high = self.emit("BitShift", [packed, self.constant(4, UINT8)], part, direction="RIGHT")
        codes = self.emit("Concat", [low, high], TensorType(UINT8, (2 * half,)), axis=0)
        rows = self.reshape(codes, (blocks, 2 * half // blocks))
        single = self.emit("Cast", [scale], TensorType(FLOAT32, (blocks,)), to=FLOAT32)
        count = self.constant([blocks], np.int64)
        zero = self.emit("Expand", [self.constant(ZERO, UINT8), count], TensorType(UINT8, (blocks,)))
        values = TensorType(FLOAT32, self.types[rows].shape)
        return self.reshape(self.emit("DequantizeLinear", [rows, single, zero], values, axis=0), shape)

    # -- constants and shapes --------------------------------------------------------------------------

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

    def large_constant(self, array: np.ndarray) -> str:
        """The name of a constant that lies among the weights if it is not small."""
        if array.nbytes <= LARGEST_CONSTANT_BYTES:
            return self.constant(array, array.dtype)
        name = f"folded.{hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
        self.weights.arrays[name], self.weights.formats[name] = array, "fp32"
        self.types[name] = TensorType(array.dtype, array.shape)
        return name

    def scalar(self, value: float, beside: str) -> str:
        """A constant that an elementwise operator reads together with the tensor `beside`, of its dtype. Beside
        (..., 1), rank 0 would have the engine call its loop once per value, 40 times slower."""
        dtype, shape = self.types[beside]
        return self.constant(np.full([1] * len(shape) if shape[-1:] == (1,) else [], value), dtype)

    def reshape(self, value: str, shape: tuple[Dimension, ...]) -> str:
        if self.types[value].shape == shape:
            return value
        target = self.constant([-1 if isinstance(d, Batch) else d for d in shape], np.int64)
        return self.emit(VIEW, [value, target], TensorType(self.types[value].dtype, shape), allowzero=1)

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
        """Gives results their public names; a result that no node makes, or that has a name already, is copied."""
        produced = {name for node in self.nodes for name in node.outputs}
        renamed: dict[str, str] = {}
        for value, name in zip(values, names, strict=True):
            value = self.operand(value)
            self.types[name] = self.types[value]
            if value in produced and value not in renamed:
                renamed[value] = name
            else:
                self.emit_as(name, "Identity", [value])
        for node in self.nodes:
            node.inputs = [renamed.get(value, value) for value in node.inputs]
            node.outputs = [renamed.get(value, value) for value in node.outputs]
