"""Adapters: what is trained on the device. One kind per file; `registry.py` lists them."""
