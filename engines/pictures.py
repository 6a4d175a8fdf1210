"""Reading latents and writing pictures and latents."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from engines.errors import EngineError
from search.core.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SETTINGS = "stepcarve"
"""Name of the text in a PNG that holds how it was made, as JSON."""


def load_latents(path: Path) -> NDArray[np.float32]:
    """Latents `[B, C, H, W]` from a .npy file, without unpickling."""
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


@dataclass(frozen=True)
class Generation:
    """How a picture was made, as its file says it.

    Attributes:
        prompt: text, or class.
        negative: what was guided away from.
        seed: of the run's noises.
        image: number of the picture in its run.
        images: in that run.
        guidance: scale.
        steps: inference steps of the sampler.
        calls: of the denoiser.
        scheduler: its class.
        subnet: what made it.
        pipeline: name of its directory.
        given_latents: whether it begins from latents of a file, which the seed does not give.
        version: of stepcarve.
        lora_scales: of the LoRAs beside the weights, by name.
    """

    prompt: str
    negative: str
    seed: int
    image: int
    images: int
    guidance: float
    steps: int
    calls: int
    scheduler: str
    subnet: str
    pipeline: str
    given_latents: bool
    version: str
    lora_scales: dict[str, float] = field(default_factory=dict, hash=False)

    def parameters(self, width: int, height: int) -> str:
        """As one text in the layout that viewers of generated pictures read."""
        settings = {
            "Steps": self.steps,
            "Sampler": self.scheduler,
            "CFG scale": f"{self.guidance:g}",
            "Seed": self.seed,
            "Size": f"{width}x{height}",
            "Model": self.pipeline,
            "SubNet": f"{self.subnet}; {self.calls} calls",
            **({"Batch size": self.images, "Batch pos": self.image} if self.images > 1 else {}),
            **{f"LoRA {name}": f"{scale:g}" for name, scale in self.lora_scales.items()},
            "Version": f"stepcarve {self.version}",
        }
        negative = f"Negative prompt: {self.negative}\n" if self.negative else ""
        listed = ", ".join(f"{name}: {value}" for name, value in settings.items())
        return f"{self.prompt}\n{negative}{listed}"


def save_video(frames: NDArray[np.uint8], path: Path, about: Generation) -> None:
    """Write each of the frames `[F, height, width, 3]` beside `path`, and all as one sheet to it."""
    for number, frame in enumerate(frames):
        save_picture(frame, _frame(path, number), about)
    save_sheet(frames, path)


def first_frame(path: Path) -> Path:
    """The file of the first frame of a video whose sheet is at `path`."""
    return _frame(path, 0)


def _frame(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-frame-{number:03d}.png")


def settings_in(path: Path) -> Generation | None:
    """How the picture in a file was made, as it says; None if it does not say it, or is no picture."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            told = json.loads(opened.info[SETTINGS])
        return Generation(**told)
    except (OSError, KeyError, TypeError, ValueError):
        return None


def save_picture(pixels: NDArray[np.uint8], path: Path, about: Generation) -> None:
    """Write `[height, width, 3]` as PNG, see `png_of`."""
    write_atomically(path, png_of(pixels, about))


def png_of(pixels: NDArray[np.uint8], about: Generation) -> bytes:
    """`[height, width, 3]` as PNG with two texts in it.

    `parameters` is for other programs that show pictures, `stepcarve` is JSON with all of `about`.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    height, width, _ = pixels.shape
    texts = PngInfo()
    texts.add_text("parameters", about.parameters(width, height))
    texts.add_text(SETTINGS, json.dumps(vars(about)))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=texts)
    return buffer.getvalue()
