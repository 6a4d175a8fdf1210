"""A sampler as a table of coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
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

    @staticmethod
    def from_json(data: dict[str, Any]) -> SamplerTable:
        """Read what `to_json` wrote."""
        final = np.array(data["final"], np.float64)
        inputs = np.zeros((len(data["inputs"]), len(final)))
        for row, values in zip(inputs, data["inputs"], strict=True):
            row[: len(values)] = values
        return SamplerTable(inputs, final)
