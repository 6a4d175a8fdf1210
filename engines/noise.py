"""Noise without torch: the numbers of torch's CPU generator for a seed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import numpy as np

from engines.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_GROUP = 16


class Noise(Protocol):
    """A stream of normal numbers."""

    def randn(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The next ones."""


def noise_of(seed: int | Sequence[int]) -> Noise:
    """The noise of a seed, or of one seed for each picture of a batch."""
    return TorchNoise(seed) if isinstance(seed, int) else NoisePerPicture(seed)


class TorchNoise:
    """Draws what `torch.Generator().manual_seed(seed)` draws, up to rounding.

    So a seed means the same picture here and in diffusers. torch turns each group of 16 uniform
    numbers from its Mersenne twister into normal ones by Box and Muller's formula, the first eight as
    radii, the last eight as angles; what is left over at the end is drawn again as a group of 16.
    """

    def __init__(self, seed: int) -> None:
        self._words = np.random.RandomState(seed % 2**32)

    def randn(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """What the next `torch.randn(shape)` gives."""
        count = math.prod(shape)
        if count < _GROUP:
            msg = f"latents of shape {shape} have fewer than {_GROUP} elements"
            raise ValueError(msg)
        noise = self._normal(count - count % _GROUP)
        if count % _GROUP:
            uniform = self._uniform(count % _GROUP)  # drawn and then overwritten by torch
            noise = np.concatenate([noise, uniform])
            noise[-_GROUP:] = self._normal(_GROUP)
        return noise.reshape(shape).astype(np.float32)

    def _uniform(self, count: int) -> NDArray[np.float64]:
        drawn = self._words.randint(0, 2**32, size=count, dtype=np.uint32)
        return (drawn & 0xFFFFFF) / 2**24

    def _normal(self, count: int) -> NDArray[np.float64]:
        groups = self._uniform(count).reshape(-1, 2, _GROUP // 2)
        radius = np.sqrt(-2 * np.log(1 - groups[:, :1]))
        angle = 2 * np.pi * groups[:, 1:]
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()


class NoisePerPicture:
    """Draws each picture of a batch from a seed of its own, as diffusers does with a list of generators.

    So a picture does not depend on the others in its batch.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._sources = [TorchNoise(seed) for seed in seeds]

    def randn(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The next numbers of each seed, `[seeds, ...]`."""
        count, *rest = shape
        if count != len(self._sources):
            msg = (
                f"{len(self._sources)} seeds are given, but a noise of shape {list(shape)} is drawn; "
                f"give {count} seeds, or one for all"
            )
            raise EngineError(msg)
        return np.concatenate([source.randn((1, *rest)) for source in self._sources])
