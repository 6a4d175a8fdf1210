"""The sampler's rows of a run, which may depend on its guidance scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from search.core.program import plan_program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from engines.buffers import Buffer, Buffers
    from exporter.bundle import Bundle
    from search.core.sampler import SamplerTable


class SamplerRows:
    """The rows in buffers, those of one guidance scale at a time.

    Attributes:
        table: whose rows they are now.
        weights: of each call's input, then of the final latents, up to the last that counts at any scale.
    """

    def __init__(self, bundle: Bundle, buffers: Buffers) -> None:
        """Begin with the bundle's own scale."""
        fitted = bundle.subnet.fitted
        self._by_scale = None if fitted is None or fitted.by_scale is None else fitted
        self._buffers, self._scale, self.table = buffers, bundle.guidance, bundle.sampler
        terms = [self.table]
        if self._by_scale is not None:
            self._reduce = plan_program(bundle.subnet, bundle.latent_shape[0]).reduce
            terms = [self._reduce(term) for term in self._by_scale.terms]
        counts = np.max([[_count(row) for row in _rows(term)] for term in terms], axis=0)
        self.weights: list[Buffer] = [
            buffers.zeros((int(count),), np.dtype(np.float32)) for count in counts
        ]
        self._write()

    def use(self, scale: float) -> None:
        """Take the rows of a guidance scale, one that the bundle takes."""
        if self._by_scale is None or scale == self._scale:
            return
        self._scale = scale
        self.table = self._reduce(self._by_scale.at(scale).table)
        self._write()

    def _write(self) -> None:
        for weights, row in zip(self.weights, _rows(self.table), strict=True):
            self._buffers.write(weights, row[: len(weights)].astype(np.float32))


def _rows(table: SamplerTable) -> Iterator[NDArray[np.float64]]:
    yield from table.inputs
    yield table.final


def _count(row: NDArray[np.float64]) -> int:
    """Of the coefficients up to the last that is not 0."""
    return len(np.trim_zeros(row, "b"))
