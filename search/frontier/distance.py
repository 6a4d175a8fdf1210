"""Distances of many pictures to a target, and which of two is smaller beyond chance. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES = 2000
"""Of the pictures, with replacement."""
LEVEL = 0.95
"""Of all intervals."""
SEED = 20240711
"""Of the resamples, which are the same for all, so that pictures stay pairs."""


class Baseline(enum.StrEnum):
    """What final latents are compared with."""

    FULL = "full"
    """Those of the full sampler."""
    FINE = "fine"
    """Those of the same sampler with many more steps, the fine reference."""


class Statistic(enum.StrEnum):
    """One number for the errors of many pictures."""

    MEAN = "mean"
    MEDIAN = "median"

    def of(self, errors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Along the last axis."""
        found: NDArray[np.float64] = np.asarray(
            errors.mean(-1) if self is Statistic.MEAN else np.median(errors, -1)
        )
        return found


@dataclass(frozen=True)
class Distance:
    """Relative L2 of the final latents to those of a target.

    Attributes:
        errors: one per picture.
    """

    errors: tuple[float, ...]

    def value(self, statistic: Statistic) -> float:
        """Of all pictures."""
        return float(statistic.of(np.array(self.errors)))

    @property
    def largest(self) -> float:
        """Of the pictures."""
        return max(self.errors)

    def interval(self, statistic: Statistic) -> tuple[float, float]:
        """Between which values it lies for `LEVEL` of the resamples."""
        return _middle(_resampled(self.errors, statistic))

    def is_apart(self, other: Distance, statistic: Statistic) -> bool:
        """Whether the difference to another has the same sign in `LEVEL` of the resamples: a paired bootstrap."""
        low, high = _middle(
            _resampled(self.errors, statistic) - _resampled(other.errors, statistic)
        )
        return low > 0 or high < 0

    def ratio(self, other: Distance, statistic: Statistic) -> dict[str, Any]:
        """Its statistic divided by that of another, as JSON values.

        `interval` are the values between which that lies for `LEVEL` of the resamples: a paired bootstrap.
        """
        each = _resampled(self.errors, statistic) / _resampled(other.errors, statistic)
        return {"value": self.value(statistic) / other.value(statistic), "interval": _middle(each)}

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            **{each.value: self.value(each) for each in Statistic},
            **{f"{each.value}_interval": self.interval(each) for each in Statistic},
            "largest": self.largest,
            "errors": [float(f"{error:.5g}") for error in self.errors],
        }


@lru_cache(maxsize=512)
def _resampled(errors: tuple[float, ...], statistic: Statistic) -> NDArray[np.float64]:
    """`[RESAMPLES]`."""
    count = len(errors)
    chosen = np.random.default_rng(SEED).integers(count, size=(RESAMPLES, count))
    return statistic.of(np.array(errors)[chosen])


def _middle(values: NDArray[np.float64]) -> tuple[float, float]:
    rest = (1 - LEVEL) / 2
    low, high = np.quantile(values, (rest, 1 - rest))
    return float(low), float(high)
