"""Fine-tune pretrained vision models on edge devices inside a fixed memory budget."""

__version__ = "0.1.0"
