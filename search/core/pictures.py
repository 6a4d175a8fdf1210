"""Pictures without a framework: examples, and files as a run takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


def example_picture(height: int, width: int, source: str = "image") -> Image.Image:
    """A smooth picture, or for `mask` one whose left half and a little more is white."""
    from PIL import Image

    y, x = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    if source == "mask":
        return Image.fromarray(((x < 0.6) * 255).astype(np.uint8))
    wave = np.stack([x, y, 0.5 + 0.5 * np.sin(6 * (x - y))], axis=-1)
    return Image.fromarray((wave * 255).astype(np.uint8))
