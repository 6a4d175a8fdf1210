"""Random weights at the scale of trained ones."""

from __future__ import annotations

from typing import TypeVar

import torch
from diffusers import DiffusionPipeline

P = TypeVar("P", bound=DiffusionPipeline)


def with_random_weights(pipe: P, seed: int, *, gain: float = 1.2) -> P:
    """Draw every weight anew, so that none is zero and text and time are seen in what comes out.

    Matrices multiply the scale of what they are given by `gain`, factors lie around one, the rest
    around zero.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = {k: v for k, v in pipe.components.items() if isinstance(v, torch.nn.Module)}
    for _, part in sorted(parts.items()):
        for name, weight in part.eval().named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1 and weight.numel():
                weight.data = gain * noise / weight[0].numel() ** 0.5
            elif name.endswith("weight"):
                weight.data = 1 + noise / 10
            else:
                weight.data = noise / 10
    return pipe
