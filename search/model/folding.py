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
        handed: the scheduler's shape.
    """

    shape: tuple[int, ...]
    dims: tuple[int, ...]
    handed: tuple[int, ...]

    def undone(self, folded: Tensor) -> Tensor:
        """What the scheduler was handed, in the loop's shape."""
        permuted = folded.reshape([self.shape[dim] for dim in self.dims])
        return permuted.permute([self.dims.index(dim) for dim in range(len(self.dims))])

    def done(self, latents: Tensor) -> Tensor:
        """Latents of the loop, as the scheduler is handed them."""
        return latents.permute(self.dims).reshape(self.handed)


def folding_of(
    handed: Tensor, drawn: tuple[int, ...], pictures: int, prepared: tuple[int, ...] = ()
) -> Folding | None:
    """How noise `drawn`, whose elements are numbered, became what the scheduler was handed.

    None where it became that otherwise, or where there is one row per picture, as there mostly is. But a
    pipeline that prepares latents `prepared` like the noise may still permute them before its loop.
    """
    count = math.prod(drawn)
    is_permuted = prepared == drawn != handed.shape and handed.ndim == len(drawn)
    if handed.numel() != count or (len(handed) == pictures and not is_permuted):
        return None
    scale = (count - 1) / handed.max()
    numbers = (handed * scale).round().flatten()
    loop = torch.arange(count, dtype=handed.dtype).reshape(drawn)
    for dims in itertools.permutations(range(len(drawn))):
        if torch.equal(loop.permute(dims).flatten(), numbers):
            return Folding(drawn, dims, tuple(handed.shape))
    return None
