"""How the size of a picture follows from the shape of the noise that it begins from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Sizing:
    """Which dimensions of a picture's noise are its height, width and frames.

    Attributes:
        rows: the dimension of the height; that of the width follows.
        factor: pixels per element, in each direction.
        frames: the dimension of the frames, or None for pictures.
        every: frames per element.
        first: frames before the first such group: 1 where the first frame stands for itself.
    """

    rows: int
    factor: int
    frames: int | None = None
    every: int = 1
    first: int = 0

    def size(self, noise_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Height and width of the picture that noise becomes, and a video's frames.

        Raises:
            SearchError: it becomes neither.
        """
        if len(noise_shape) < self.rows + 2:
            msg = (
                f"the pipeline's noise {list(noise_shape)} has no height and width, as for sound; "
                "give a pipeline that makes pictures or videos"
            )
            raise SearchError(msg)
        height, width = noise_shape[self.rows : self.rows + 2]
        found = (height * self.factor, width * self.factor)
        if self.frames is None:
            return found
        groups = noise_shape[self.frames] - (1 if self.first else 0)
        return (*found, self.first + groups * self.every)

    @staticmethod
    def of(noise_shape: tuple[int, ...], asked: Mapping[str, int]) -> Sizing:
        """What noise `noise_shape` of one picture says of its size.

        Args:
            noise_shape: as drawn.
            asked: what the pipeline prepared its latents for: `height`, `width`, `num_frames`.

        Raises:
            SearchError: the noise is not of that size.
        """
        height, width = asked["height"], asked["width"]
        rows = _rows(noise_shape, height, width)
        factor, count = height // noise_shape[rows], asked.get("num_frames")
        if count is None:
            return Sizing(rows, factor)
        return Sizing(rows, factor, *_frames(noise_shape, rows, count))


def _rows(noise_shape: tuple[int, ...], height: int, width: int) -> int:
    """The dimension of the height. A pipeline may have rounded the size that it was asked for."""
    places = list(reversed(range(len(noise_shape) - 1)))
    exact = [
        p
        for p in places
        if height * noise_shape[p + 1] == width * noise_shape[p] and not height % noise_shape[p]
    ]
    rounded = [p for p in places if height // noise_shape[p] == width // noise_shape[p + 1] > 0]
    if not exact + rounded:
        msg = f"the noise {noise_shape} does not divide a picture of {height} x {width}"
        raise SearchError(msg)
    return (exact + rounded)[0]


def _frames(noise_shape: tuple[int, ...], rows: int, count: int) -> tuple[int, int, int]:
    """The dimension of `count` frames, how many an element stands for, and the ones before."""
    others = [i for i in range(len(noise_shape)) if i not in (rows, rows + 1)]
    for dim in reversed(others):
        size = noise_shape[dim]
        if size > 1 and (count - 1) % (size - 1) == 0 and dim < rows:
            return dim, (count - 1) // (size - 1), 1
        if count % size == 0 and dim < rows:
            return dim, count // size, 0
    msg = f"the noise {noise_shape} does not divide {count} frames"
    raise SearchError(msg)
