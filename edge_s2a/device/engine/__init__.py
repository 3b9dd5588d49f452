"""Runs an artifact: the protocol of an engine, the engine on onnxruntime, and micro-batches."""
