"""Where a new adapter starts: the head at class means, low-rank maps at the directions of their gradient."""
