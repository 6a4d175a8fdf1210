"""The pruner: a small network without input that outputs the scores of the gates."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search.dipgo.recipe import PrunerEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search.dipgo.recipe import DipGoRecipe

HEADS_OF_ATTENTION = 8


class Pruner(nn.Module):
    """Learned queries, one per (step, block), an encoder over all of them, and a head for each.

    At the start every cell's logits are 1 for the first choice and 0 for the others: everything runs.
    """

    def __init__(
        self, shape: tuple[int, int, int], allowed: Tensor, recipe: DipGoRecipe, *, seed: int
    ) -> None:
        """Make one for gates of `shape` (steps, blocks, choices), `allowed` `[N, A]`."""
        super().__init__()
        steps, blocks, choices = self.shape = shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.queries = nn.Parameter(torch.randn(steps * blocks, recipe.width))
            self.encoder = _encoder(recipe, steps * blocks)
            self.head = _Heads(steps * blocks, [recipe.width, *recipe.head, choices])
        self.register_buffer("forbidden", ~allowed, persistent=False)

    def forward(self) -> Tensor:
        """Scores of the choices, `[T, N, A]`; they sum to 1 per cell."""
        encoded = self.encoder(self.queries[None])[0]
        logits: Tensor = self.head(encoded).view(self.shape)
        return logits.masked_fill(cast("Tensor", self.forbidden), -math.inf).softmax(-1)


def _encoder(recipe: DipGoRecipe, cells: int) -> nn.Module:
    if recipe.encoder is PrunerEncoder.LINEAR:
        return _LinearEncoder(cells, recipe.width)
    heads = math.gcd(HEADS_OF_ATTENTION, recipe.width)
    return nn.TransformerEncoderLayer(
        recipe.width, heads, dim_feedforward=recipe.width, dropout=0.0, batch_first=True
    )


class _LinearEncoder(nn.Module):
    def __init__(self, cells: int, width: int) -> None:
        super().__init__()
        self.along_cells, self.along_width = nn.Linear(cells, cells), nn.Linear(width, width)

    def forward(self, queries: Tensor) -> Tensor:
        """Queries `[1, cells, width]` -> the same shape, each mixed with all others."""
        mixed = queries + self.along_cells(queries.transpose(1, 2)).transpose(1, 2)
        encoded: Tensor = mixed + self.along_width(F.relu(mixed))
        return encoded


class _Heads(nn.Module):
    """As many small perceptrons as there are cells, computed together."""

    def __init__(self, cells: int, widths: Sequence[int]) -> None:
        super().__init__()
        bounds = [1 / math.sqrt(wide) for wide in widths[:-1]]
        layers = list(zip(pairwise(widths), bounds, strict=True))
        self.weights = nn.ParameterList(
            torch.empty(cells, wide, narrow).uniform_(-b, b) for (wide, narrow), b in layers
        )
        self.biases = nn.ParameterList(
            torch.empty(cells, narrow).uniform_(-b, b) for (_, narrow), b in layers
        )
        with torch.no_grad():
            self.weights[-1].zero_()
            self.biases[-1].zero_()[:, 0] = 1

    def forward(self, encoded: Tensor) -> Tensor:
        """`[cells, width]` -> logits `[cells, A]`."""
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            encoded = F.relu(encoded) if i else encoded
            encoded = torch.einsum("ci,cio->co", encoded, weight) + bias
        return encoded


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        del ctx
        return F.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, wanted: Tensor) -> Tensor:
        del ctx
        return wanted


def straight_through(scores: Tensor) -> Tensor:
    """Exactly 1 for each cell's best choice and 0 elsewhere; the gradient is that of the scores.

    Step 0 runs everything, whatever its scores are.
    """
    gates = cast("Tensor", _StraightThrough.apply(scores))  # type: ignore[no-untyped-call]
    first = torch.zeros_like(scores[:1])
    first[..., 0] = 1
    return torch.cat([first, gates[1:]])
