"""Pictures without a framework: examples, and how they become inputs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

logger = logging.getLogger(__name__)


def example_picture(height: int, width: int, source: str = "image") -> Image.Image:
    """A smooth picture, or for `mask` one whose left half and a little more is white."""
    from PIL import Image

    y, x = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    if source == "mask":
        return Image.fromarray(((x < 0.6) * 255).astype(np.uint8))
    wave = np.stack([x, y, 0.5 + 0.5 * np.sin(6 * (x - y))], axis=-1)
    return Image.fromarray((wave * 255).astype(np.uint8))


def values_of(
    picture: Image.Image, source: str, shape: tuple[int, ...], shortest: int = 0
) -> NDArray[np.float32]:
    """A picture as an input of `shape` `[1, 3 or 1, height, width]` in 0..1, resized as diffusers does.

    Args:
        picture: of any size.
        source: what the run takes it for.
        shape: of the input.
        shortest: see `PromptInput.shortest`.
    """
    from PIL.Image import Resampling

    _, channels, height, width = shape
    if shortest:
        picture = _middle(picture, height, width, shortest)
    if picture.size != (width, height):
        logger.warning(
            "the %s is %d x %d; it is resized to %d x %d",
            source,
            *picture.size[::-1],
            height,
            width,
        )
        picture = picture.resize((width, height), Resampling.LANCZOS)
    pixels = np.array(picture.convert("L" if channels == 1 else "RGB"), np.float32)
    pixels /= np.float32(255)
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)[None]


def _middle(picture: Image.Image, height: int, width: int, shortest: int) -> Image.Image:
    """The middle of a picture whose shorter edge is resized, as the image processor of CLIP does it."""
    from PIL.Image import Resampling

    size = [int(shortest * edge / min(picture.size)) for edge in picture.size]
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    resized = picture.resize((size[0], size[1]), Resampling.BICUBIC)
    return resized.crop((left, top, left + width, top + height))
