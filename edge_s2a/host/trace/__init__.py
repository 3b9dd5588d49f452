"""Records loss and gradients from autograd itself, with the saved tensors in low-bit codes."""
