"""Lowerings of ATen operators to ONNX, one function each; importing this package fills the table."""

from edge_s2a.host.graph.lowerings import arithmetic, codes, convolution, products, views
from edge_s2a.host.graph.lowerings.table import LOWERINGS

__all__ = ["LOWERINGS", "arithmetic", "codes", "convolution", "products", "views"]
