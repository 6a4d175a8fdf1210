"""What is evaluated: a SubNet and the rows it runs with. No framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.core.liveness import unroll
from search.core.table import keep_of

if TYPE_CHECKING:
    from search.core.quantisation import Quantisation
    from search.core.sampler import SamplerTable
    from search.core.subnet import SubNet
    from search.frontier.series import Series

SLACK = 1e-9
"""Of comparisons between costs."""


@dataclass(frozen=True)
class Candidate:
    """One SubNet to be evaluated.

    Attributes:
        method: what made it.
        label: tells it from others of the method.
        keep: what it was made for.
        subnet: its gates and, if it brings one, its sampler.
        table: the rows it runs with, over its steps.
        is_fitted: whether the rows were calibrated.
        unguided: the steps that make the prediction with the prompt alone. No action says so where
            both are made in one call, so such a candidate is measured, but is no SubNet to compile.
        plan: by which its denoiser rounds; None: not at all.
    """

    method: Series
    label: str
    keep: float
    subnet: SubNet
    table: SamplerTable
    is_fitted: bool = False
    unguided: frozenset[int] = frozenset()
    plan: Quantisation | None = None

    @property
    def cost(self) -> float:
        """Its MACs as a fraction of the full sampler's; a call without guidance counts as half of one."""
        macs = unroll(self.subnet).macs
        left_out = sum(macs[step] for step in self.unguided) / 2
        return keep_of(self.subnet) * (1 - left_out / sum(macs))


def require_any(series: Series, found: list[Candidate], least: float) -> list[Candidate]:
    """Refuse a series that is too dear for every keep.

    Args:
        series: that was made.
        found: its candidates.
        least: what its cheapest table costs.

    Raises:
        SearchError: there is no candidate.
    """
    if not found:
        msg = f"the least that {series.label} can cost here is {least:.2f} of the full sampler; raise --keep"
        raise SearchError(msg)
    return found
