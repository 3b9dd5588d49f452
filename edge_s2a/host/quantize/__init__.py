"""Operators whose backward pass reads low-bit codes instead of float activations.

Each is a `torch.autograd.Function` made of tensor arithmetic, in a file of its own: run eagerly it is the
reference of the parity tests, traced it is what `edge_s2a.host.capture` records.
"""
