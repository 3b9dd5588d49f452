"""From lifetimes of tensors to the peak memory of a run, and to the micro-batch that fits a budget."""
