"""Rewrites of a graph between lowering and ONNX, one pass per file. Each takes a graph and returns it."""
