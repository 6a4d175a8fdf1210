"""Learning rates."""

from __future__ import annotations

import math


def warmup_cosine(highest: float, warmup: int, iteration: int, iterations: int) -> float:
    """Rises linearly to `highest` through the warm-up, then falls along a cosine to 0."""
    warmup = min(warmup, iterations - 1)
    if iteration < warmup:
        return highest * (iteration + 1) / (warmup + 1)
    part = (iteration - warmup) / (iterations - warmup)
    return highest * (1 + math.cos(math.pi * part)) / 2
