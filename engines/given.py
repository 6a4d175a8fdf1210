"""Pictures that a run is given: files, and those that a bundle takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engines.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from PIL.Image import Image

    from exporter.bundle import Bundle


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
    """The given pictures, which must be those that the bundle takes: `image`, `mask` and `ip-image`.

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
