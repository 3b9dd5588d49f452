"""Rewrites of the graph between lowering and ONNX, one pass a file. Each takes a graph and returns it."""
