"""Tensors compared by polygraphy, as records."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[Any]

EXPECTED, FOUND = "expected", "found"
"""Runners, as polygraphy calls them; the first is the reference of what is relative."""


@dataclass(frozen=True)
class Difference:
    """One tensor against what it should be.

    Attributes:
        relative: L2 norm of the difference over that of what was expected; NaN if not finite.
        largest: absolute difference of one element.
        cosine: similarity; blind to scale.
        psnr: in dB, of the largest expected value; infinite if equal.
        floor: the relative difference that rounding alone makes.
        allowed: what `relative` may be.
        passed: polygraphy's verdict.
    """

    relative: float
    largest: float
    cosine: float
    psnr: float
    floor: float
    allowed: float
    passed: bool

    @property
    def excess(self) -> float:
        """The difference as a fraction of the tolerance; infinite for NaN."""
        if math.isnan(self.relative):
            return math.inf
        if self.relative == 0:
            return 0.0
        return self.relative / self.allowed if self.allowed else math.inf


MISSING = Difference(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, passed=False)
"""Placeholder of a missing tensor."""


def compare(
    expected: Mapping[str, Array], found: Mapping[str, Array], floors: Mapping[str, float], k: float
) -> dict[str, Difference]:
    """Compare the tensors of `expected` by name; each may differ by `k` times its floor.

    The verdict is that of the signal-to-noise ratio, which is the relative L2 difference in dB; the
    other measures say more about a difference.
    """
    from polygraphy import comparator
    from polygraphy.logger import G_LOGGER

    allowed = {name: k * floors[name] for name in expected}
    results = comparator.RunResults()
    results.add([_widened(expected)], runner_name=EXPECTED)
    results.add([_widened({name: found[name] for name in expected})], runner_name=FOUND)
    functions = (
        comparator.SnrCompareFunc(snr_threshold={n: _decibels(a) for n, a in allowed.items()}),
        comparator.SimpleCompareFunc(check_error_stat="max"),
        comparator.CosineSimilarityCompareFunc(),
        comparator.PsnrCompareFunc(),
    )
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), np.errstate(all="ignore"):
        compared = comparator.Comparator.compare_accuracy(results, compare_func=functions)
    by_name = [result[EXPECTED, FOUND][0] for result in compared]
    return {
        name: _difference([each[name] for each in by_name], floors[name], allowed[name])
        for name in expected
    }


def _difference(results: list[Any], floor: float, allowed: float) -> Difference:
    """From polygraphy's results, which are a plain False where shapes differ."""
    snr, simple, cosine, psnr = results
    if isinstance(snr, bool):
        return MISSING
    return Difference(
        relative=0.0 if snr.snr == math.inf else 10 ** (-snr.snr / 20),
        largest=float(simple.max_absdiff),
        cosine=float(cosine.cosine_similarity),
        psnr=float(psnr.psnr),
        floor=floor,
        allowed=allowed,
        passed=bool(snr),
    )


def _widened(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """In float64, in which what polygraphy adds up does not round."""
    return {n: np.ascontiguousarray(tensor, np.float64) for n, tensor in tensors.items()}


def _decibels(relative: float) -> float:
    """A relative L2 difference as a signal-to-noise ratio."""
    return -20 * math.log10(relative) if relative > 0 else math.inf


def relative_l2(found: Array, expected: Array) -> float:
    """L2 norm of the difference over that of `expected`; NaN if either is not finite."""
    difference = np.linalg.norm(found.astype(np.float64) - expected)
    return float(difference / max(float(np.linalg.norm(expected.astype(np.float64))), 1e-30))


def psnr(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB of uint8 pictures; infinite if they are equal."""
    error = np.mean((found.astype(np.float64) - expected) ** 2)
    return math.inf if error == 0 else float(10 * np.log10(255**2 / error))
