"""The ONNX operators that the graphs of an artifact may hold.

The host refuses to pack a graph that holds any other, the device to load one. No operator listed here reads a file,
calls code of others, or holds a graph of its own. A lowering that needs another one adds it here, and says how the
engine runs it in `host/targets/onnxruntime/rules.py`.
"""

OPERATORS = {  # by domain
    "": frozenset({
        "Abs", "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "Cast", "Clip", "Col2Im", "Concat", "Conv",
        "ConvTranspose", "Cos", "CumSum", "DequantizeLinear", "Div", "Equal", "Erf", "Exp", "Expand", "Gather", "Gelu",
        "Gemm", "Greater", "GreaterOrEqual", "Identity", "LayerNormalization", "Less", "LessOrEqual", "Log",
        "LogSoftmax", "Max", "MaxPool", "Min", "Mul", "Neg", "Not", "Pad", "Pow", "QuantizeLinear", "Reciprocal",
        "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape",
        "ScatterND", "Shape", "Sigmoid", "Sign", "Sin", "Slice", "Softmax", "Split", "Sqrt", "Sub", "Tanh", "Tile",
        "Transpose", "Unsqueeze", "Where",
    }),
    "com.microsoft": frozenset({"FusedMatMul", "MatMulIntegerToFloat"}),
}  # fmt: skip


def is_allowed(operator: str, domain: str) -> bool:
    return operator in OPERATORS.get(domain, ())
