"""Pictures of many prompts and seeds from one loaded bundle, each written when it is done."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import EngineError
from engines.pictures import Generation, save_latents_to, save_picture, save_video
from engines.video import MOVING, PNG
from exporter.bundle import Bundle
from exporter.errors import ExportError
from search.core.versions import version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from engines.runner import Result, Runner


@dataclass(frozen=True)
class Order:
    """What to make.

    Attributes:
        prompts: texts, or class names or numbers.
        images: per prompt; as many as one run makes, or a multiple.
        seed: of the first run of every prompt; the next runs have those that follow.
        negative: what to guide away from.
        guidance: scale; None is the bundle's.
        latents: what every run begins from, or None.
        pictures: `image` and `mask`, as far as the bundle takes them.
        lora_scales: of LoRAs beside the weights, by name; the others have the bundle's.
        fps: frames per second of a video in one file.
    """

    prompts: tuple[str, ...]
    images: int
    seed: int = 0
    negative: str = ""
    guidance: float | None = None
    latents: NDArray[np.float32] | None = None
    pictures: Mapping[str, Image] = field(default_factory=dict)
    lora_scales: Mapping[str, float] = field(default_factory=dict)
    fps: float = 16.0


@dataclass(frozen=True)
class Made:
    """What one run made.

    Attributes:
        prompt: what it shows.
        seed: of its noises.
        images: the files.
        seconds: for the conditions, the loop and the decoder.
        call_seconds: of the loop, each call with the sampler's work before it; none where the loop
            runs on a device in one piece.
    """

    prompt: str
    seed: int
    images: tuple[Path, ...]
    seconds: dict[str, float]
    call_seconds: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**vars(self), "images": [str(path) for path in self.images]}


def open_for(path: Path, *, height: int | None, width: int | None, images: int | None) -> Bundle:
    """The variant of a bundle for `images` per prompt: in one run if it can, else in several.

    Raises:
        ExportError: no variant has that size, or none makes that number in whole runs.
    """
    first = Bundle.open(path, height=height, width=width)
    if images is None:
        return first
    held = {
        shape.images
        for shape in first.shapes
        if height in (None, shape.height) and width in (None, shape.width)
    }
    whole = [number for number in held if images >= number and images % number == 0]
    return Bundle.open(path, height=height, width=width, images=max(whole, default=images))


def prompts_for(
    bundle: Bundle, *, prompt: str | None, label: str | None, listed: Sequence[str] | None
) -> tuple[str, ...]:
    """The prompt or label, or those of a list, as the bundle takes them.

    Raises:
        ExportError: not exactly one of them is given.
    """
    if listed is None:
        return (bundle.require_prompt(prompt=prompt, label=label),)
    if prompt is not None or label is not None:
        msg = "prompts are given twice; leave out --prompts, or --prompt and --label"
        raise ExportError(msg)
    return tuple(listed)


def generate(
    runner: Runner,
    order: Order,
    out: Path,
    *,
    save_latents: Path | None = None,
    report: Callable[..., None] = lambda _text, _share=None: None,
) -> list[Made]:
    """Make every picture of `order` and write it to `out`, with a number if there are several.

    A picture's file is there as soon as its run is done, and says how it was made.

    Args:
        runner: at a variant whose number of images divides that of the order.
        order: what to make.
        out: a PNG file; of a video also a GIF or MP4 file, beside which its frames are PNG files.
        save_latents: also write the final latents of every run to this .npy file, likewise.
        report: called with a progress message and the completed fraction.

    Raises:
        EngineError: wrong prompt, shape or scale, or a value that is not finite.
    """
    bundle = runner.bundle
    batch = bundle.shape.images
    if order.latents is not None and order.images > batch:
        msg = (
            f"--latents begins one run, which makes {batch} images here, but --num-images is "
            f"{order.images}; leave one of them out"
        )
        raise EngineError(msg)
    runs = list(product(order.prompts, range(order.seed, order.seed + order.images // batch)))
    made: list[Made] = []
    for number, (prompt, seed) in enumerate(runs):
        result, calls = _timed(runner, order, prompt, seed, (number, len(runs)), report)
        paths = [_numbered(out, number * batch + each, len(runs) * batch) for each in range(batch)]
        for each, path in enumerate(paths):
            about = _generation(bundle, order, prompt, seed, each)
            if bundle.shape.frames is None:
                save_picture(result.images[each], path, about)
                continue
            save_video(result.images[each], path.with_suffix(PNG), about)
            if path.suffix.lower() in MOVING:
                MOVING[path.suffix.lower()](result.images[each], path, order.fps)
        if save_latents is not None:
            save_latents_to(result.latents, _numbered(save_latents, number, len(runs)))
        made.append(Made(prompt, seed, tuple(paths), result.seconds, calls))
    return made


def _timed(
    runner: Runner,
    order: Order,
    prompt: str,
    seed: int,
    place: tuple[int, int],
    report: Callable[..., None],
) -> tuple[Result, tuple[float, ...]]:
    """One run, and the seconds of its calls; `place` is its number and how many there are."""
    number, runs = place
    count = len(runner.bundle.calls)
    which = "" if runs == 1 else f"run {number + 1} of {runs}, "
    ends: list[float] = []

    def tell(call: int, *_: object) -> None:
        ends.append(time.perf_counter())
        report(f"{which}call {call + 1} of {count}", (number + (call + 1) / count) / runs)

    report(f"{which}{count} calls", number / runs)
    began = time.perf_counter()
    result = runner.run(
        prompt,
        latents=order.latents,
        seed=seed,
        negative=order.negative,
        guidance=order.guidance,
        pictures=order.pictures,
        lora_scales=order.lora_scales,
        on_call=tell if runner.on_host else None,
    )
    starts = [began + result.seconds["condition"], *ends]
    return result, tuple(end - start for start, end in zip(starts, ends, strict=False))


def _numbered(path: Path, number: int, count: int) -> Path:
    """`x.png` among several is `x-0.png`, `x-1.png`, ...; with as many digits as the last needs."""
    if count == 1:
        return path
    return path.with_stem(f"{path.stem}-{number:0{len(str(count - 1))}}")


def _generation(bundle: Bundle, order: Order, prompt: str, seed: int, image: int) -> Generation:
    subnet = bundle.subnet
    return Generation(
        prompt=prompt,
        negative=order.negative,
        seed=seed,
        image=image,
        images=bundle.shape.images,
        guidance=bundle.guidance if order.guidance is None else order.guidance,
        steps=subnet.binding.inference_steps,
        calls=len(bundle.calls),
        scheduler=subnet.binding.scheduler,
        subnet=subnet.method,
        pipeline=Path(bundle.pipeline).name,
        given_latents=order.latents is not None,
        version=version_of("stepcarve") or "unknown",
    )
