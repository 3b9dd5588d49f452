"""Structural modules: what is trained on the device. One kind a file."""
