"""From a captured torch computation to graphs of ONNX operators: builder, lowerings, passes, cut into pieces."""
