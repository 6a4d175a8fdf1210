"""A sampler as a table of coefficients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class SamplerTable:
    """A sampler as linear combinations of what a run knows beforehand and P noise predictions.

    Attributes:
        inputs: row k gives the denoiser's input at call k, `[K, N + P]`; the first N columns belong to
            what is known, column N + p to prediction p. A row uses only predictions that earlier calls
            have made.
        final: the final latents, `[N + P]`.
        noises: how many noises of unit variance there are: the initial one unless the run begins from
            the latents of another, and those that the scheduler draws, in the order drawn.
        given: whether latents that are given come before the noises.
    """

    inputs: NDArray[np.float64]
    final: NDArray[np.float64]
    noises: int = 1
    given: bool = False

    @property
    def known(self) -> int:
        """N, how many columns come before the predictions."""
        return self.given + self.noises

    @property
    def predictions(self) -> int:
        """P, how many there are."""
        return self.final.size - self.known

    def require_fixed(self) -> None:
        """Refuse a sampler whose result depends on more than the initial noise."""
        if self.given:
            msg = (
                "the sampler begins from given latents, so there are no runs from noise to search along "
                "or to fit to; choose a method that does neither (full, deepcache, random)"
            )
            raise SearchError(msg)
        if self.noises > 1:
            msg = (
                f"the sampler draws {self.noises - 1} noises of its own, so there is no trajectory to "
                "search along or to fit to; choose a scheduler that draws none, or a method that does "
                "neither (full, deepcache, fewer-steps, random)"
            )
            raise SearchError(msg)

    def merge(self, source: Sequence[int], calls: Sequence[int]) -> SamplerTable:
        """The table that remains when some steps repeat earlier predictions.

        Args:
            source: per step, the step whose prediction it has; its own number if it is new.
            calls: the steps whose input is still needed.

        Returns:
            Rows for `calls`; columns for what is known and the new predictions, in order.
        """
        new = sorted(set(source))
        known = self.known
        columns = np.zeros((known + len(source), known + len(new)))
        columns[:known, :known] = np.eye(known)
        for step, origin in enumerate(source):
            columns[known + step, known + new.index(origin)] = 1
        return replace(self, inputs=self.inputs[list(calls)] @ columns, final=self.final @ columns)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; rows without the zeros at their end."""
        return {
            "inputs": [np.trim_zeros(row, "b").tolist() for row in self.inputs],
            "final": self.final.tolist(),
            "noises": self.noises,
            "given": self.given,
        }

    def __eq__(self, other: object) -> bool:
        """Equal coefficients."""
        if not isinstance(other, SamplerTable):
            return NotImplemented
        return (
            (self.noises, self.given) == (other.noises, other.given)
            and np.array_equal(self.inputs, other.inputs)
            and np.array_equal(self.final, other.final)
        )

    def __hash__(self) -> int:
        """Of the coefficients."""
        return hash((self.inputs.tobytes(), self.final.tobytes()))

    @staticmethod
    def from_json(data: dict[str, Any]) -> SamplerTable:
        """Read what `to_json` wrote; older files have one noise, nothing given, and do not say so."""
        final = np.array(data["final"], np.float64)
        inputs = np.zeros((len(data["inputs"]), len(final)))
        for row, values in zip(inputs, data["inputs"], strict=True):
            row[: len(values)] = values
        return SamplerTable(inputs, final, int(data.get("noises", 1)), bool(data.get("given")))


@dataclass(frozen=True)
class FittedSampler:
    """A SubNet's fitted sampler, which approximates the full sampler.

    Attributes:
        timesteps: that the denoiser receives, one per step of the SubNet.
        table: its rows; those of steps that make no call are never used.
    """

    timesteps: tuple[float, ...]
    table: SamplerTable

    def __post_init__(self) -> None:
        """Check that the rows are one per step and use only earlier predictions."""
        self.table.require_fixed()
        steps = len(self.timesteps)
        if self.table.inputs.shape != (steps, 1 + steps) or self.table.final.shape != (1 + steps,):
            msg = (
                f"the fitted sampler has {steps} timesteps but a table of "
                f"{list(self.table.inputs.shape)} and {list(self.table.final.shape)}; "
                "give one row per timestep"
            )
            raise SearchError(msg)
        if np.triu(self.table.inputs[:, 1:]).any():
            msg = "the fitted sampler uses a prediction before it is made; fit it again"
            raise SearchError(msg)
        values = (*self.timesteps, *self.table.inputs.flat, *self.table.final)
        if not np.isfinite(values).all():
            msg = "the fitted sampler has coefficients that are not finite; fit it again"
            raise SearchError(msg)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"timesteps": list(self.timesteps), **self.table.to_json()}

    @staticmethod
    def from_json(data: dict[str, Any]) -> FittedSampler:
        """Read what `to_json` wrote."""
        return FittedSampler(tuple(map(float, data["timesteps"])), SamplerTable.from_json(data))
