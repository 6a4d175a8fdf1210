"""Additivity: how closely scores of single layers sum to the loss of removing several."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search.laptop.layers import Layers

SIZES = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Fractions of the cost that random subsets remove."""
SUBSETS = 10
"""Random subsets of each size."""
MODERATE = 0.3
"""Largest removed fraction at which the scores should be additive."""


@dataclass(frozen=True)
class Subset:
    """A random set of layers.

    Attributes:
        size: the fraction of the cost it was drawn to remove.
        predicted: the sum of their scores.
        loss: of removing them together.
    """

    size: float
    predicted: float
    loss: float


@dataclass(frozen=True)
class Additivity:
    """Spearman's rank correlation of predicted and true loss over random subsets.

    Attributes:
        loss_name: the name of the loss.
        subsets: of all sizes.
        moderate: the correlation over all subsets up to `MODERATE`.
        overall: over all.
        by_size: for each size, the correlation among its subsets, and the median of true over predicted.
    """

    loss_name: str
    subsets: tuple[Subset, ...]
    moderate: float
    overall: float
    by_size: dict[float, tuple[float, float]]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "moderate": self.moderate,
            "overall": self.overall,
            "by_size": [
                {"size": size, "spearman": rank, "true_over_predicted": ratio}
                for size, (rank, ratio) in self.by_size.items()
            ],
            "subsets": [vars(each) for each in self.subsets],
        }

    def sentence(self) -> str:
        """For people."""
        sizes = ", ".join(
            f"{size:.0%} {rank:.2f} (x {ratio:.2g})" for size, (rank, ratio) in self.by_size.items()
        )
        return (
            f"additivity of the {self.loss_name} loss: Spearman {self.moderate:.2f} up to {MODERATE:.0%} removed, "
            f"{self.overall:.2f} over all; by size (true / predicted): {sizes}"
        )


def random_subsets(
    layers: Layers, shares: Sequence[float], *, seed: int
) -> list[tuple[float, frozenset[int]]]:
    """Random sets of layers apart from each other, with the size each was drawn for."""
    random = np.random.default_rng(seed)
    return [
        (size, _random_subset(layers, shares, size, random))
        for size in SIZES
        for _ in range(SUBSETS)
    ]


def _random_subset(
    layers: Layers, shares: Sequence[float], size: float, random: np.random.Generator
) -> frozenset[int]:
    """Layers in random order, each taken if it still fits."""
    chosen, left = set[int](), size
    for layer in random.permutation(len(layers.names)).tolist():
        if 0 < shares[layer] <= left + 1e-9 and layers.are_apart({*chosen, layer}):
            chosen.add(layer)
            left -= shares[layer]
    return frozenset(chosen)


def additivity(
    scores: Sequence[float],
    drawn: Sequence[tuple[float, frozenset[int]]],
    losses: Sequence[float],
    loss_name: str,
) -> Additivity:
    """Compare the true losses, `loss_name` by name, of the subsets `drawn` with what the scores predict."""
    subsets = tuple(
        Subset(
            size=size,
            predicted=sum(scores[i] for i in one),
            loss=loss,
        )
        for (size, one), loss in zip(drawn, losses, strict=True)
    )
    return Additivity(
        loss_name=loss_name,
        subsets=subsets,
        moderate=spearman([s for s in subsets if s.size <= MODERATE + 1e-9]),
        overall=spearman(subsets),
        by_size={size: _of_size([s for s in subsets if s.size == size]) for size in SIZES},
    )


def spearman(subsets: Sequence[Subset]) -> float:
    """Rank correlation of predicted and true loss; 0 where one of them does not vary."""
    from scipy.stats import spearmanr

    predicted, true = [s.predicted for s in subsets], [s.loss for s in subsets]
    if min(np.ptp(predicted), np.ptp(true)) == 0:
        return 0.0
    return float(spearmanr(predicted, true).statistic)


def _of_size(subsets: Sequence[Subset]) -> tuple[float, float]:
    ratios = [s.loss / s.predicted for s in subsets if s.predicted > 0]
    return spearman(subsets), float(np.median(ratios)) if ratios else 0.0


def draw(found: Additivity) -> bytes:
    """A PNG: predicted against true loss, one colour per size."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["viridis"](np.linspace(0, 0.9, len(SIZES)))
    for colour, (size, (rank, _)) in zip(colours, found.by_size.items(), strict=True):
        mine = [s for s in found.subsets if s.size == size and min(s.predicted, s.loss) > 0]
        label = f"{size:.0%} removed, Spearman {rank:.2f}"
        x, y = [s.predicted for s in mine], [s.loss for s in mine]
        axes.plot(x, y, "o", color=colour, markersize=5, label=label)
    values = [v for s in found.subsets for v in (s.predicted, s.loss) if v > 0]
    if values:
        ends = [min(values), max(values)]
        axes.plot(ends, ends, color="#99a3a4", linewidth=0.8, zorder=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlabel("predicted: sum of the single layers' scores")
    axes.set_ylabel(f"true: {found.loss_name} loss of removing them together")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
