"""Random weights under which everything in a network matters."""

from __future__ import annotations

import math

import torch
from torch import nn


def randomise(*networks: nn.Module, seed: int, gain: float = 1.0) -> None:
    """Draw every parameter anew, also what the library starts at zero (gates, zero convolutions).

    Matrices and kernels keep the size of what passes them, times `gain`; scales of norms stay near one.
    """
    generator = torch.Generator().manual_seed(seed)
    for network in networks:
        network.eval()
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1 and min(parameter.shape[1:].numel(), parameter.shape[0]) > 1:
                drawn = gain * noise / math.sqrt(parameter.shape[1:].numel())
            elif name.endswith(("weight", "gamma")):
                drawn = 1 + 0.1 * noise
            else:
                drawn = 0.1 * noise
            parameter.data.copy_(drawn)
