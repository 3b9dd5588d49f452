"""The memory budget: what the process has, what the machine leaves it, and the micro-batch that fits."""
