"""Pictures to begin from."""

from __future__ import annotations

import numpy as np
from PIL import Image


def picture(size: int = 32, seed: int = 0) -> Image.Image:
    """A smooth colour gradient with a disc."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    corners = rng.uniform(0, 255, (3, 3))
    canvas = x[..., None] * corners[0] + y[..., None] * corners[1]
    centre = rng.uniform(0.3, 0.7, 2)
    canvas[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 0.06] = corners[2]
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))


def mask(size: int = 32) -> Image.Image:
    """The left half and a little more is to be painted."""
    canvas = np.zeros((size, size), np.uint8)
    canvas[:, : size * 5 // 8] = 255
    return Image.fromarray(canvas)


def video(frames: int, size: int = 32) -> list[Image.Image]:
    """Each frame is another picture."""
    return [picture(size, seed) for seed in range(frames)]
