"""In which precision a training multiplies on this processor."""

from __future__ import annotations

import time
from functools import lru_cache

import torch

SHAPE = (2560, 512)
"""Of the products that are timed: about those of one block of the transformer."""
REPEATS = 5


def products() -> torch.autocast:
    """A context that multiplies in bfloat16, where the processor is faster with it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_faster())


@lru_cache
def bfloat16_is_faster() -> bool:
    """Whether products in bfloat16 take less time than in float32, measured once."""
    return _seconds(torch.bfloat16) < _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    rows, columns = torch.ones(SHAPE, dtype=dtype), torch.ones(SHAPE[1], SHAPE[1], dtype=dtype)
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        rows @ columns
        times.append(time.perf_counter() - began)
    return min(times)
