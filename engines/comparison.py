"""Pictures of several samplers from equal noise, and what is wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

COLUMNS = 5


def draw_comparison(shown: Mapping[str, NDArray[np.uint8]], gain: int) -> Figure:
    """A row per sampler: its pictures, and at the right their differences from the first row's.

    Args:
        shown: name -> pictures `[N, height, width, 3]`; the first is the one to come close to.
        gain: by what differences are multiplied, to be seen.
    """
    from matplotlib.figure import Figure

    full = next(iter(shown.values()))
    count = min(COLUMNS, len(full))
    figure = Figure(figsize=(1.1 * 2 * count + 1.5, 1.15 * len(shown) + 0.3), layout="constrained")
    halves: NDArray[np.object_] = figure.subfigures(1, 2, wspace=0.02, squeeze=False)
    left, right = halves[0]
    left.suptitle("pictures from the same noise", fontsize=10)
    right.suptitle(f"difference from the {next(iter(shown))}, magnified {gain} times", fontsize=10)
    for half in (left, right):
        axes = half.subplots(len(shown), count, squeeze=False)
        for line, (name, images) in zip(axes, shown.items(), strict=True):
            for axis, picture, whole in zip(line, images, full, strict=False):
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
                axis.imshow(picture if half is left else _magnified(picture, whole, gain))
            if half is left:
                line[0].set_ylabel(name.replace(", ", ",\n"), fontsize=8)
    return figure


def _magnified(picture: NDArray[np.uint8], full: NDArray[np.uint8], gain: int) -> NDArray[np.uint8]:
    """The absolute difference, `gain` times, as darkness on white; `[height, width, 3]`."""
    difference = np.abs(picture.astype(np.int16) - full)
    inverted: NDArray[np.uint8] = (255 - np.minimum(gain * difference, 255)).astype(np.uint8)
    return inverted
