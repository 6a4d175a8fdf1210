"""Latents that a pipeline hands to its scheduler in another shape than its loop has them in."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Folding:
    """How latents were permuted and reshaped for the scheduler, as a video's frames into its batch.

    Attributes:
        shape: of the latents in the loop, `[B, ...]`.
        dims: their dimensions in the order of the scheduler's.
    """

    shape: tuple[int, ...]
    dims: tuple[int, ...]

    def undone(self, folded: Tensor) -> Tensor:
        """What the scheduler was handed, in the loop's shape."""
        permuted = folded.reshape([self.shape[dim] for dim in self.dims])
        return permuted.permute([self.dims.index(dim) for dim in range(len(self.dims))])


def folding_of(handed: Tensor, drawn: tuple[int, ...], pictures: int) -> Folding | None:
    """How noise `drawn`, whose elements are numbered, became what the scheduler was handed.

    None where there is one row per picture, as there mostly is, or where it became that otherwise.
    """
    count = math.prod(drawn)
    if len(handed) == pictures or handed.numel() != count:
        return None
    scale = (count - 1) / handed.max()
    numbers = (handed * scale).round().flatten()
    loop = torch.arange(count, dtype=handed.dtype).reshape(drawn)
    for dims in itertools.permutations(range(len(drawn))):
        if torch.equal(loop.permute(dims).flatten(), numbers):
            return Folding(drawn, dims)
    return None
