"""A sampler as a table of coefficients."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


def refused_scale(scale: float, low: float, high: float) -> str | None:
    """Why rows that were fitted for `low` to `high` are not for a guidance scale; None: they are."""
    if low <= scale <= high:
        return None
    asked = f"guidance {scale:g} was requested, but the sampler was fitted for {low:g}"
    if low == high:
        return f"{asked}; give that scale, or search again with --guidance {scale:g}"
    return f"{asked} to {high:g}; give a scale in that range, or search again with another --guidance-range"


@dataclass(frozen=True)
class ScaleRange:
    """The guidance scales that a fitted sampler is for.

    Attributes:
        low: the least.
        high: the largest.
        guidance: the one to use when none is given.
    """

    low: float
    high: float
    guidance: float

    def __post_init__(self) -> None:
        """Check that the range is one, and has that scale in it."""
        is_range = math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high
        if not is_range or not self.low <= self.guidance <= self.high:
            msg = (
                f"the guidance range is {self.low:g} to {self.high:g} and guidance is {self.guidance:g}, but the "
                "range must go from a smaller to a larger scale with guidance between them; give "
                "--guidance-range LOW HIGH around --guidance, or around the pipeline's own scale"
            )
            raise SearchError(msg)

    @property
    def fitted_at(self) -> tuple[float, ...]:
        """The scales that rows for the range are fitted at; the polynomial through them has as many terms."""
        return ((self.low + self.high) / 2, self.low, self.high)

    def place(self, scale: float) -> float:
        """The distance of a scale from `guidance`, relative to the size of the range."""
        return (scale - self.guidance) / (self.high - self.low)

    def require(self, scale: float) -> None:
        """Refuse a scale outside."""
        if why := refused_scale(scale, self.low, self.high):
            raise SearchError(why)


@dataclass(frozen=True)
class ByScale:
    """How rows change with the guidance scale: a polynomial in its place in a range.

    Attributes:
        scales: the range.
        powers: the coefficients of the place, of its square, ...; the constant term is the table at
            `scales.guidance`.
    """

    scales: ScaleRange
    powers: tuple[SamplerTable, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**vars(self.scales), "powers": [table.to_json() for table in self.powers]}

    @staticmethod
    def from_json(data: dict[str, Any]) -> ByScale:
        """Read what `to_json` wrote."""
        scales = ScaleRange(*(float(data[name]) for name in ("low", "high", "guidance")))
        return ByScale(scales, tuple(map(SamplerTable.from_json, data["powers"])))


@dataclass(frozen=True)
class FittedSampler:
    """A SubNet's fitted sampler, which approximates the full sampler.

    Attributes:
        timesteps: that the denoiser receives, one per step of the SubNet.
        table: its rows at the guidance scale of the SubNet; those of steps that make no call are never
            used.
        by_scale: how they change with that scale; None: they are for that scale alone.
    """

    timesteps: tuple[float, ...]
    table: SamplerTable
    by_scale: ByScale | None = None

    def __post_init__(self) -> None:
        """Check that the rows are one per step and use only earlier predictions."""
        for table in self.terms:
            self._check(table)

    def _check(self, table: SamplerTable) -> None:
        table.require_fixed()
        steps = len(self.timesteps)
        if table.inputs.shape != (steps, 1 + steps) or table.final.shape != (1 + steps,):
            msg = (
                f"the fitted sampler has {steps} timesteps but a table of "
                f"{list(table.inputs.shape)} and {list(table.final.shape)}; "
                "give one row per timestep"
            )
            raise SearchError(msg)
        if np.triu(table.inputs[:, 1:]).any():
            msg = "the fitted sampler uses a prediction before it is made; fit it again"
            raise SearchError(msg)
        values = (*self.timesteps, *table.inputs.flat, *table.final)
        if not np.isfinite(values).all():
            msg = "the fitted sampler has coefficients that are not finite; fit it again"
            raise SearchError(msg)

    @property
    def terms(self) -> tuple[SamplerTable, ...]:
        """Of the polynomial that the rows are, the constant one first."""
        return (self.table, *(() if self.by_scale is None else self.by_scale.powers))

    def at(self, scale: float) -> FittedSampler:
        """The same for one guidance scale.

        Raises:
            SearchError: the rows are for a range that the scale is not in.
        """
        if self.by_scale is None:
            return self
        scales = self.by_scale.scales
        scales.require(scale)
        weights = [scales.place(scale) ** power for power in range(len(self.terms))]
        inputs = sum(w * table.inputs for w, table in zip(weights, self.terms, strict=True))
        final = sum(w * table.final for w, table in zip(weights, self.terms, strict=True))
        return FittedSampler(self.timesteps, SamplerTable(np.asarray(inputs), np.asarray(final)))

    def around(self, guidance: float) -> FittedSampler:
        """The same rows, with another scale of their range as the one to use when none is given.

        Raises:
            SearchError: the range does not have that scale.
        """
        if self.by_scale is None:
            return self
        self.by_scale.scales.require(guidance)
        scales = replace(self.by_scale.scales, guidance=guidance)
        each = np.linspace(scales.low, scales.high, len(self.terms)).tolist()
        return FittedSampler.through({scale: self.at(scale) for scale in each}, scales)

    @staticmethod
    def through(found: Mapping[float, FittedSampler], scales: ScaleRange) -> FittedSampler:
        """The polynomial through rows at several guidance scales.

        Args:
            found: rows for single scales at the same timesteps, by their scale.
            scales: their range.
        """
        tables = [each.table for each in found.values()]
        values = np.stack([np.vstack([each.inputs, each.final]) for each in tables])
        powers = np.vander([scales.place(scale) for scale in found], increasing=True)
        terms = np.linalg.solve(powers, values.reshape(len(tables), -1)).reshape(values.shape)
        timesteps = next(iter(found.values())).timesteps
        return FittedSampler.of_terms(
            timesteps, [SamplerTable(term[:-1], term[-1]) for term in terms], scales
        )

    @staticmethod
    def of_terms(
        timesteps: Sequence[float], terms: Sequence[SamplerTable], scales: ScaleRange | None
    ) -> FittedSampler:
        """The polynomial with these terms, the constant one first; without a range it has that alone."""
        table, *powers = terms
        by_scale = None if scales is None else ByScale(scales, tuple(powers))
        return FittedSampler(tuple(timesteps), table, by_scale)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        found = {"timesteps": list(self.timesteps), **self.table.to_json()}
        return found if self.by_scale is None else {**found, "by_scale": self.by_scale.to_json()}

    @staticmethod
    def from_json(data: dict[str, Any]) -> FittedSampler:
        """Read what `to_json` wrote; before schema 7 rows were for one guidance scale."""
        by = data.get("by_scale")
        return FittedSampler(
            tuple(map(float, data["timesteps"])),
            SamplerTable.from_json(data),
            None if by is None else ByScale.from_json(by),
        )
