"""Reading latents and writing pictures and latents."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import numpy as np

from engines.errors import EngineError
from search.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def load_latents(path: Path) -> NDArray[np.float32]:
    """Latents `[B, C, H, W]` from a .npy file; nothing is unpickled."""
    try:
        loaded = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        msg = f"there is no file {str(path)!r}; give latents that run --save-latents has written"
        raise EngineError(msg) from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        msg = f"{str(path)!r} is not a .npy file of numbers ({error}); write one with numpy.save"
        raise EngineError(msg) from error
    if not isinstance(loaded, np.ndarray) or not np.issubdtype(loaded.dtype, np.floating):
        msg = f"{str(path)!r} does not hold one array of floating-point numbers"
        raise EngineError(msg)
    return loaded.astype(np.float32)


def save_latents_to(latents: NDArray[np.float32], path: Path) -> None:
    """Write a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, latents)
    write_atomically(path, buffer.getvalue())


def require_png(path: Path) -> None:
    """Refuse to write a picture under another name than that of a PNG."""
    if path.suffix.lower() != ".png":
        msg = f"pictures are PNG files, but the name is {str(path)!r}; give one that ends in .png"
        raise EngineError(msg)


def save_sheet(images: NDArray[np.uint8], path: Path, *, columns: int = 8) -> None:
    """Write `[N, height, width, 3]` as one PNG, row by row."""
    from PIL import Image

    count, height, width, channels = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height, width, channels), 255, np.uint8)
    sheet[:count] = images
    grid = sheet.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    buffer = io.BytesIO()
    Image.fromarray(grid.reshape(rows * height, columns * width, channels)).save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def save_pictures(images: NDArray[np.uint8], path: Path) -> list[Path]:
    """Write `[B, height, width, 3]` as PNG; more than one get `-0`, `-1`, ... behind the name."""
    from PIL import Image

    paths = (
        [path]
        if len(images) == 1
        else [path.with_stem(f"{path.stem}-{number}") for number in range(len(images))]
    )
    for pixels, target in zip(images, paths, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        write_atomically(target, buffer.getvalue())
    return paths
