"""Where the runner's values live: on the host in numpy, or on the device of an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Buffer = Any
"""A numpy array or another tensor that is indexed like one; views of it are buffers too."""


class Buffers(Protocol):
    """Allocates buffers and computes on them between the calls of an engine.

    Attributes:
        on_host: whether reading a value between two calls is free.
    """

    on_host: bool

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        """A new buffer."""

    def table(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        """A new buffer `[rows, ...]` of which every row can be an engine's input or output."""

    def rows(self, source: Buffer) -> Buffer:
        """A table for the rows of `source`, to be filled by `write`; `source` if it is a table."""

    def write(self, into: Buffer, value: Any) -> None:
        """Put a number, list, array or buffer into `into`, in its dtype."""

    def host(self, buffer: Buffer) -> NDArray[Any]:
        """The values as a numpy array: the buffer itself, or a copy."""

    def finite(self, buffer: Buffer) -> bool:
        """Whether all values are."""

    def combination(self, row: Buffer, terms: Buffer, out: Buffer) -> Callable[[], None]:
        """A function that writes `sum(row[i] * terms[i])` into `out`; `terms` is a table.

        The values of `row` are those that it has when the function is called.
        """

    def record(self, walk: Callable[[], None]) -> Callable[[], None]:
        """A faster equivalent of `walk`, which uses only these buffers."""

    def wait(self) -> None:
        """Wait for all pending work."""


class NumpyBuffers:
    """Numpy arrays."""

    on_host = True

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        """See `Buffers`."""
        return np.zeros(shape, dtype)

    table = zeros

    def rows(self, source: Buffer) -> Buffer:
        """See `Buffers`."""
        return source

    def write(self, into: Buffer, value: Any) -> None:
        """See `Buffers`."""
        into[...] = value

    def host(self, buffer: Buffer) -> NDArray[Any]:
        """See `Buffers`."""
        array: NDArray[Any] = buffer
        return array

    def finite(self, buffer: Buffer) -> bool:
        """See `Buffers`."""
        return bool(np.isfinite(buffer).all())

    def combination(self, row: Buffer, terms: Buffer, out: Buffer) -> Callable[[], None]:
        """See `Buffers`."""
        known, flat = terms[: row.size].reshape(row.size, -1), out.reshape(-1)

        def combine() -> None:
            np.dot(row, known, out=flat)

        return combine

    def record(self, walk: Callable[[], None]) -> Callable[[], None]:
        """See `Buffers`."""
        return walk

    def wait(self) -> None:
        """See `Buffers`."""
