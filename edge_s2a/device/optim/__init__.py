"""From micro-batches to an update: gradient accumulation, clipping, optimizers and the learning rate."""
