"""Running an artifact: the protocol of an engine, the engine on onnxruntime, loading within a budget, self-check."""
