"""Pictures that a run is given: files, and what a bundle makes of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from engines.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL.Image import Image

    from exporter.bundle import Bundle

logger = logging.getLogger(__name__)


def load_picture(path: Path) -> Image:
    """The picture in a file, upright and in RGB as diffusers loads it.

    Raises:
        EngineError: it cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except OSError as error:
        msg = f"cannot read the picture {str(path)!r} ({error}); give a PNG or JPEG file"
        raise EngineError(msg) from error


def require_pictures(
    bundle: Bundle, given: Mapping[str, Image], *, has_latents: bool
) -> Mapping[str, Image]:
    """The given pictures, which must be those that the bundle takes: `image` and `mask`.

    Args:
        bundle: whose they are.
        given: by these names.
        has_latents: whether latents to begin from are given, which a picture can take the place of.

    Raises:
        EngineError: one is missing, or one too many.
    """
    taken = bundle.pictures
    if bundle.encoder is not None:
        if has_latents and "image" in given:
            msg = "--image and --latents are both given, but a run starts from one of them; leave one of them out"
            raise EngineError(msg)
        if not has_latents and "image" not in given:
            begins = bundle.subnet.binding.grid.begins
            msg = f"the bundle {begins}, so it needs these; give a picture with --image, or them with --latents"
            raise EngineError(msg)
        taken = taken if has_latents else taken | {"image"}
    for source in sorted(taken - given.keys()):
        msg = (
            f"the bundle {str(bundle.path)!r} needs a picture as its {source}; give --{source} FILE"
        )
        raise EngineError(msg)
    for source in sorted(given.keys() - taken):
        msg = f"the bundle {str(bundle.path)!r} takes no {source}; leave --{source} out"
        raise EngineError(msg)
    return given


def values_of(picture: Image, source: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A picture as an input of `shape` `[1, 3 or 1, height, width]` in 0..1, resized as diffusers does."""
    from PIL.Image import Resampling

    _, channels, height, width = shape
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
