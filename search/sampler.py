"""A sampler as a table of coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class SamplerTable:
    """A sampler as linear combinations of the initial noise and P noise predictions.

    Attributes:
        inputs: row k gives the denoiser's input at call k, `[K, 1 + P]`; column 0 belongs to the
            noise (of unit variance), column 1 + p to prediction p. A row uses only predictions that
            earlier calls have made.
        final: the final latents, `[1 + P]`.
    """

    inputs: NDArray[np.float64]
    final: NDArray[np.float64]

    def merge(self, source: Sequence[int], calls: Sequence[int]) -> SamplerTable:
        """The table that remains when some steps repeat earlier predictions.

        Args:
            source: per step, the step whose prediction it has; its own number if it is new.
            calls: the steps whose input is still needed.

        Returns:
            Rows for `calls`; columns for the noise and the new predictions, in order.
        """
        new = sorted(set(source))
        columns = np.zeros((1 + len(source), 1 + len(new)))
        columns[0, 0] = 1
        for step, origin in enumerate(source):
            columns[1 + step, 1 + new.index(origin)] = 1
        return SamplerTable(self.inputs[list(calls)] @ columns, self.final @ columns)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; rows without the zeros at their end."""
        return {
            "inputs": [np.trim_zeros(row, "b").tolist() for row in self.inputs],
            "final": self.final.tolist(),
        }

    def __eq__(self, other: object) -> bool:
        """Equal coefficients."""
        if not isinstance(other, SamplerTable):
            return NotImplemented
        return np.array_equal(self.inputs, other.inputs) and np.array_equal(self.final, other.final)

    def __hash__(self) -> int:
        """Of the coefficients."""
        return hash((self.inputs.tobytes(), self.final.tobytes()))

    @staticmethod
    def from_json(data: dict[str, Any]) -> SamplerTable:
        """Read what `to_json` wrote."""
        final = np.array(data["final"], np.float64)
        inputs = np.zeros((len(data["inputs"]), len(final)))
        for row, values in zip(inputs, data["inputs"], strict=True):
            row[: len(values)] = values
        return SamplerTable(inputs, final)


@dataclass(frozen=True)
class FittedSampler:
    """A sampler of a SubNet's own, fitted to what the full sampler does.

    Attributes:
        timesteps: what the denoiser is told, one per step of the SubNet.
        table: its rows; those of steps that make no call are never used.
    """

    timesteps: tuple[float, ...]
    table: SamplerTable

    def __post_init__(self) -> None:
        """Check that the rows are one per step and use only earlier predictions."""
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
