"""Videos as one file that players open."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from engines.errors import EngineError
from search.core.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    Save = Callable[["NDArray[np.uint8]", Path, float], None]

PNG = ".png"
SOUND = frozenset({".wav", ".mp3", ".flac", ".ogg", ".m4a"})


def require_name(path: Path, *, is_video: bool) -> None:
    """Refuse the name of a file that a bundle cannot write, or that a missing package would write.

    Args:
        path: of the picture or video.
        is_video: whether the bundle makes videos.

    Raises:
        EngineError: it does not end as it should.
    """
    ending = path.suffix.lower()
    if ending in SOUND:
        msg = f"{str(path)!r} is a sound file, and stepcarve makes pictures and videos without sound; give a {PNG} file"
        raise EngineError(msg)
    if ending in MOVING and not is_video:
        msg = f"the bundle makes pictures, and {str(path)!r} is a video; give a {PNG} file"
        raise EngineError(msg)
    if ending != PNG and ending not in MOVING:
        videos = f", and videos also {' and '.join(MOVING)} files" if is_video else ""
        msg = (
            f"pictures are PNG files{videos}, but the name is {str(path)!r}; give one that ends in "
            f"{' or '.join((PNG, *MOVING)) if is_video else PNG}"
        )
        raise EngineError(msg)
    if ending == ".mp4" and find_spec("imageio_ffmpeg") is None:
        msg = (
            "MP4 files are written by imageio-ffmpeg, which is not installed; pip install imageio-ffmpeg, "
            "or stepcarve[video], or give a .gif or .png file"
        )
        raise EngineError(msg)


def save_gif(frames: NDArray[np.uint8], path: Path, fps: float) -> None:
    """Write `[F, height, width, 3]` as an endless GIF, which has 256 colours per frame and times of 1/100 s."""
    from PIL import Image

    first, *rest = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    first.save(
        buffer,
        "GIF",
        save_all=True,
        append_images=rest,
        duration=round(1000 / fps),
        loop=0,
    )
    write_atomically(path, buffer.getvalue())


def save_mp4(frames: NDArray[np.uint8], path: Path, fps: float) -> None:
    """Write `[F, height, width, 3]`, whose sizes are even, as H.264."""
    from imageio_ffmpeg import write_frames

    _, height, width, _ = frames.shape
    with TemporaryDirectory(prefix="stepcarve-") as folder:
        file = Path(folder) / path.name
        writer = write_frames(str(file), (width, height), fps=fps, macro_block_size=2, quality=8)
        writer.send(None)
        for frame in frames:
            writer.send(frame.tobytes())
        writer.close()
        write_atomically(path, file.read_bytes())


MOVING: Mapping[str, Save] = {".gif": save_gif, ".mp4": save_mp4}
"""Ending of a video's file -> what writes it."""
