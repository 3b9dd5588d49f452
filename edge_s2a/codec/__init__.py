"""Low-bit codes for saved tensors: the numpy reference that defines the format.

The host computes the same arithmetic with torch (`edge_s2a.host.trace.codes`), the device with ONNX operators
in the training graph. `reference.py` is the independent specification that the tests hold both to.
"""
