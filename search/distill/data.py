"""Captioned pictures as a student sees them: latents, conditions, noise."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from search.core.errors import SearchError
from search.laptop.noising import Noising
from search.model.encoding import path_name
from search.model.family import Request
from search.model.recording import DenoiserCall, record_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from search.model.pipeline import Pipeline

METADATA = "metadata.jsonl"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
CAPTION_KEYS = ("text", "caption", "prompt", "label")
ENCODED_AT_ONCE = 32
GUIDED = 5.0
"""A guidance scale with which a pipeline makes both halves, if it makes any."""
CAPTIONS_KEPT = 4096
"""How many encoded captions stay in memory."""


@dataclass(frozen=True)
class Captioned:
    """Pictures in files, each with its caption."""

    files: tuple[Path, ...]
    captions: tuple[str, ...]


def read_folder(folder: Path) -> Captioned:
    """Pictures of a folder with captions, as `datasets`' imagefolder lays them out.

    `metadata.jsonl` has a `file_name` and a caption (text, caption, prompt or label) per line; without
    it, each picture has its caption in a text file of the same name.

    Raises:
        SearchError: there are no pictures, one has no caption or lies outside the folder, or a text is
            not UTF-8.
    """
    if not folder.is_dir():
        msg = f"there is no directory {str(folder)!r}; give a directory of pictures with captions"
        raise SearchError(msg)
    listed = folder / METADATA
    pairs = list(_listed(folder, listed) if listed.is_file() else _beside(folder))
    if not pairs:
        msg = f"{str(folder)!r} has no pictures; give a directory with {METADATA}, or with a .txt beside each"
        raise SearchError(msg)
    return Captioned(tuple(file for file, _ in pairs), tuple(text for _, text in pairs))


def _listed(folder: Path, listed: Path) -> Iterator[tuple[Path, str]]:
    for number, line in enumerate(_text(listed).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name = str(row["file_name"])
            caption = str(next(row[key] for key in CAPTION_KEYS if key in row))
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            msg = (
                f"line {number} of {str(listed)!r} has no file_name with a caption; give a JSON object "
                f"with file_name and one of {', '.join(CAPTION_KEYS)}"
            )
            raise SearchError(msg) from error
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
            msg = f"line {number} of {str(listed)!r} names {name!r}, which is not a file in the directory; remove the line"
            raise SearchError(msg)
        yield file, caption


def _beside(folder: Path) -> Iterator[tuple[Path, str]]:
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() not in SUFFIXES:
            continue
        text = file.with_suffix(".txt")
        if not text.is_file():
            msg = f"{str(file)!r} has no caption; put one into {text.name!r} beside it, or write {METADATA}"
            raise SearchError(msg)
        yield file, _text(text).strip()


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        msg = f"{str(file)!r} is not UTF-8 text; write it again as UTF-8"
        raise SearchError(msg) from error


def load_picture(file: Path, size: tuple[int, ...]) -> NDArray[np.uint8]:
    """A picture as `[height, width, 3]` of `size`, upright, cropped to its centre.

    Raises:
        SearchError: the file holds none.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return np.asarray(ImageOps.fit(upright, (size[1], size[0]), Image.Resampling.LANCZOS))
    except (OSError, Image.DecompressionBombError) as error:
        msg = f"{str(file)!r} holds no picture ({error}); remove it"
        raise SearchError(msg) from error


def encode_pictures(
    pipeline: Pipeline,
    pictures: Callable[[int, int], NDArray[np.uint8]],
    count: int,
    out: NDArray[np.float32],
    report: Callable[..., None],
) -> None:
    """Fill `out` `[count, 2, C, H, W]` with means and deviations of the pictures' latents.

    Args:
        pipeline: its VAE encodes.
        pictures: `(first, end)` -> `[end - first, height, width, 3]`.
        count: of pictures.
        out: what to fill.
        report: called with a message and the completed fraction.
    """
    vae = pipeline.pipe.vae.eval()
    scale, shift = _scaling(vae)
    for first in range(0, count, ENCODED_AT_ONCE):
        end = min(count, first + ENCODED_AT_ONCE)
        pixels = torch.tensor(pictures(first, end), device=vae.device).permute(0, 3, 1, 2)
        with torch.no_grad():
            found = vae.encode(pixels.to(vae.dtype) / 127.5 - 1).latent_dist
        pair = torch.stack([(found.mean - shift) * scale, found.std * scale], dim=1)
        out[first:end] = pair.float().numpy(force=True)
        report(f"encode picture {end} of {count}", end / count)


def _scaling(vae: Any) -> tuple[float, float]:
    """What latents are multiplied by after a shift is taken off."""
    if getattr(vae.config, "latents_mean", None) or getattr(vae.config, "latents_std", None):
        msg = (
            "the VAE scales each channel by its own mean and deviation, which distill does not support; give "
            "a pipeline whose VAE has one scale"
        )
        raise SearchError(msg)
    return float(vae.config.scaling_factor), float(getattr(vae.config, "shift_factor", None) or 0.0)


class Conditions:
    """What the denoiser is given beside latents and timestep, per caption."""

    def __init__(self, pipeline: Pipeline, size: tuple[int, ...]) -> None:
        self._pipeline, self._size = pipeline, size
        prompt = pipeline.default_prompt
        self._call = self._record((prompt,), 1.0)
        alone, twice = self._call.conditions, self._record((prompt,) * 2, 1.0).conditions
        self._per_picture = [name for name in alone if len(twice[name]) == 2 * len(alone[name])]
        guided = self._record((prompt,), GUIDED)
        self._without = self._other_half(guided) if guided.guided else None
        # Each caption is encoded on its own, so that it does not matter what stood beside it.
        self.of = lru_cache(maxsize=CAPTIONS_KEPT)(self._of)

    @property
    def can_drop(self) -> bool:
        """Whether an empty caption has an encoding."""
        return self._without is not None

    def _record(self, prompts: tuple[str, ...], guidance: float) -> DenoiserCall:
        return record_call(self._pipeline, Request(prompts, 2, guidance).sized(self._size))

    def _of(self, caption: str) -> dict[str, Tensor]:
        found = self._record((caption,), 1.0).conditions
        return {name: found[name] for name in self._per_picture}

    def _other_half(self, guided: DenoiserCall) -> dict[str, Tensor]:
        """Of a call with both halves, the one that is not like a call without guidance."""
        halves = {name: guided.conditions[name].chunk(2) for name in self._per_picture}
        first_is_it = all(
            torch.allclose(half[0].float(), self._call.conditions[name].float(), atol=1e-4)
            for name, half in halves.items()
        )
        return {name: half[1 if first_is_it else 0] for name, half in halves.items()}

    def arguments(self, captions: Sequence[str | None]) -> dict[str, Any]:
        """The denoiser's arguments but latents and timestep; None is no caption."""
        from torch.utils import _pytree as pytree

        without = self._without or {}
        rows = [without if caption is None else self.of(caption) for caption in captions]
        batch = {name: torch.cat([row[name] for row in rows]) for name in self._per_picture}
        arguments: dict[str, Any] = pytree.tree_map_with_path(
            lambda path, leaf: batch.get(path_name(path), leaf), self._call.arguments
        )
        return arguments

    @property
    def names(self) -> tuple[str, str]:
        """Of the arguments that take latents and timestep."""
        return self._call.names

    def model_timesteps(self, timesteps: Tensor) -> Tensor:
        """What the denoiser is given for the scheduler's timesteps `[B]`."""
        return timesteps if self._call.unit == 1 else timesteps / self._call.unit

    def packed(self, latents: Tensor) -> Tensor:
        """Latents `[B, C, H, W]` in the order that the denoiser takes them, `[B, ...]`."""
        layout = self._call.layout()
        if layout is None:
            return latents
        shape = (len(latents), *self._call.sample.shape[1:])
        return latents.flatten(1)[:, list(layout)].reshape(shape)


@dataclass(frozen=True)
class Batch:
    """What one pass sees, `B` pictures.

    Attributes:
        arguments: of the denoiser.
        wanted: what the task is to predict, `[B, ...]`.
        weights: of squared errors, `[B]`.
    """

    arguments: dict[str, Any]
    wanted: Tensor
    weights: Tensor


class Draws:
    """Batches by number; the same number gives the same batch."""

    def __init__(
        self,
        pipeline: Pipeline,
        latents: NDArray[np.float32],
        captions: Sequence[str],
        size: tuple[int, ...],
    ) -> None:
        """Prepare.

        Args:
            pipeline: encodes captions; on the device to train on.
            latents: means and deviations, `[N, 2, C, H, W]`.
            captions: of the N pictures.
            size: of a picture (height, width).
        """
        self._latents, self._captions, self._pipeline = latents, captions, pipeline
        self.conditions = Conditions(pipeline, size)
        self.noising = Noising.of(pipeline.pipe.scheduler)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of captions and latents."""
        digest = hashlib.sha256(json.dumps([*self._captions]).encode())
        digest.update(str(self._latents.shape).encode())
        for picture in self._latents:
            digest.update(picture.tobytes())
        return digest.hexdigest()

    def batch(
        self, seed: tuple[int, ...], count: int, *, drop: float, floor: float, cap: float
    ) -> Batch:
        """`count` pictures that `seed` decides, without a caption in a share `drop` of them."""
        rng = np.random.default_rng(seed)
        device = self._pipeline.pipe.vae.device
        chosen = np.sort(rng.integers(len(self._captions), size=count))
        mean, deviation = torch.tensor(self._latents[chosen], device=device).unbind(1)

        def drawn() -> Tensor:
            values = rng.standard_normal(tuple(mean.shape), np.float32)
            return torch.tensor(values, device=device)

        latents, noise = mean + deviation * drawn(), drawn()
        steps = torch.tensor(rng.integers(len(self.noising.timesteps), size=count), device=device)
        dropped = rng.random(count) < (drop if self.conditions.can_drop else 0)
        captions = [
            None if out else self._captions[i] for i, out in zip(chosen, dropped, strict=True)
        ]
        noisy, wanted = self.noising.mix(steps, latents, noise)
        arguments = self.conditions.arguments(captions)
        sample, timestep = self.conditions.names
        arguments[sample] = self.conditions.packed(noisy)
        arguments[timestep] = self.conditions.model_timesteps(
            self.noising.timesteps.to(device)[steps]
        )
        return Batch(
            arguments, self.conditions.packed(wanted), self.noising.weights(steps, floor, cap)
        )
