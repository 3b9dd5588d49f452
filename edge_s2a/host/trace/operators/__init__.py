"""Replacements for torch's operators that save little for the backward pass, one family per file."""
