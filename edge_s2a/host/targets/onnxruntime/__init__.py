"""onnxruntime on the CPU: its rules, the memory plans that follow from them, and the ONNX that it reads."""
