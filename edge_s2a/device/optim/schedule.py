"""The learning rate over a training."""

import math


def learning_rate(step: int, peak: float, warmup_steps: int, total_steps: int) -> float:
    """The learning rate of optimizer step `step` (from 0): linear warm-up to `peak`, then half a cosine down to 0
    (arXiv 1608.03983)."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
