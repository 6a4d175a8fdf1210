"""Spacings: the steps that call the denoiser if whole steps are held."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXPONENTS = (1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
BENDS = (-0.75, -0.5, -0.25, 0.25, 0.5, 0.75)


def uniform(total: int, count: int) -> tuple[int, ...]:
    """`count` of `total` steps, as evenly as whole numbers allow; the first is 0."""
    return _steps(np.arange(count) / count, total)


def spacings(total: int, count: int) -> dict[str, tuple[int, ...]]:
    """Uneven choices of `count` of `total` steps, by name.

    With x from 0 to 1 along the calls, the time is x^a or 1 - (1 - x)^a for exponents above and below
    1 (denser at the beginning or the end), or the quadratic x + b x (x - 1).
    """
    along = np.arange(count) / count
    found = {}
    for exponent in (*(1 / e for e in EXPONENTS), *EXPONENTS):
        found[f"power {exponent:.2f}"] = along**exponent
        found[f"power {exponent:.2f} backwards"] = 1 - (1 - along) ** exponent
    for bend in BENDS:
        found[f"quadratic {bend:+.2f}"] = along + bend * along * (along - 1)
    seen = {uniform(total, count)}
    distinct = {}
    for name, times in found.items():
        steps = _steps(times, total)
        if steps not in seen:
            seen.add(steps)
            distinct[name] = steps
    return distinct


def _steps(times: NDArray[np.float64], total: int) -> tuple[int, ...]:
    """Times in 0..1 as distinct, increasing step numbers below `total`."""
    # Adding a little keeps 0.1 * 50 from being 4.
    wanted = np.floor(times * total + 1e-9).astype(int)
    order = np.arange(len(wanted))
    apart = np.maximum.accumulate(wanted - order) + order
    return tuple(int(step) for step in np.minimum(apart, total - len(wanted) + order))
