"""Pictures of many prompts and seeds from one loaded bundle, each written when it is done."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import EngineError
from engines.pictures import (
    Generation,
    first_frame,
    save_latents_to,
    save_picture,
    save_video,
    settings_in,
)
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


@dataclass(frozen=True)
class Progress:
    """A call that has been made, as a callback is told.

    Attributes:
        prompt: what the run shows.
        seed: of its noises.
        run: its number.
        runs: how many there are.
        call: the number of the call in its run.
        calls: how many a run has.
        preview: makes approximate pictures `[B, height, width, 3]` of what the run will make; None where
            nothing was predicted yet, or where the bundle has no previews. Only valid during the callback.
    """

    prompt: str
    seed: int
    run: int
    runs: int
    call: int
    calls: int
    preview: Callable[[], NDArray[np.uint8] | None]


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


@dataclass(frozen=True)
class Run:
    """One run of an order.

    Attributes:
        number: in the order.
        prompt: what it shows.
        seed: of its noises.
        images: the files that it writes.
        latents: the file for its final latents, or None.
    """

    number: int
    prompt: str
    seed: int
    images: tuple[Path, ...]
    latents: Path | None


def runs_of(order: Order, batch: int, out: Path, save_latents: Path | None = None) -> list[Run]:
    """The runs of an order, each of `batch` pictures; files have a number if there are several.

    Raises:
        EngineError: given latents begin one run, but there are several.
    """
    if order.latents is not None and order.images > batch:
        msg = (
            f"--latents starts a single run, which makes {batch} pictures here, but --num-images is "
            f"{order.images}; leave one of them out"
        )
        raise EngineError(msg)
    asked = list(product(order.prompts, range(order.seed, order.seed + order.images // batch)))
    count = len(asked)
    return [
        Run(
            number=number,
            prompt=prompt,
            seed=seed,
            images=tuple(
                _numbered(out, number * batch + each, count * batch) for each in range(batch)
            ),
            latents=None if save_latents is None else _numbered(save_latents, number, count),
        )
        for number, (prompt, seed) in enumerate(asked)
    ]


def not_made(bundle: Bundle, order: Order, runs: Sequence[Run]) -> list[Run]:
    """The runs of which a file is missing, or says that it was made in another way.

    Raises:
        EngineError: files do not say everything that this order has.
    """
    if order.latents is not None or order.pictures:
        msg = (
            "--resume recognises finished pictures by the settings in their files, which do not include input "
            "latents or pictures; leave --resume out"
        )
        raise EngineError(msg)
    return [run for run in runs if not _is_made(bundle, order, run)]


def _is_made(bundle: Bundle, order: Order, run: Run) -> bool:
    if run.latents is not None and not run.latents.is_file():
        return False
    return all(
        image.is_file()
        and settings_in(
            image if bundle.shape.frames is None else first_frame(image.with_suffix(PNG))
        )
        == _generation(bundle, order, run, place)
        for place, image in enumerate(run.images)
    )


def generate(
    runner: Runner,
    order: Order,
    out: Path,
    *,
    save_latents: Path | None = None,
    resume: bool = False,
    report: Callable[..., None] = lambda _text, _share=None: None,
    callback: Callable[[Progress], None] | None = None,
) -> list[Made]:
    """Make every picture of `order` and write it to `out`, with a number if there are several.

    A picture's file is there as soon as its run is done, and says how it was made.

    Args:
        runner: at a variant whose number of images divides that of the order.
        order: what to make.
        out: a PNG file; of a video also a GIF or MP4 file, beside which its frames are PNG files.
        save_latents: also write the final latents of every run to this .npy file, likewise.
        resume: leave out the runs whose files are there.
        report: called with a progress message and the completed fraction.
        callback: called after each call of the denoiser; what it raises ends everything, and the pictures
            that are done stay. On a GPU, calls are not recorded as one piece then, which is slower.

    Returns:
        What was made now.

    Raises:
        EngineError: wrong prompt, shape or scale, or a value that is not finite.
    """
    runs = runs_of(order, runner.bundle.shape.images, out, save_latents)
    count = len(runs)
    wanted = not_made(runner.bundle, order, runs) if resume else runs
    return [make(runner, order, run, count, report, callback) for run in wanted]


def make(
    runner: Runner,
    order: Order,
    run: Run,
    runs: int,
    report: Callable[..., None] = lambda _text, _share=None: None,
    callback: Callable[[Progress], None] | None = None,
) -> Made:
    """Make the pictures of one of `runs` runs; see `generate`."""
    bundle = runner.bundle
    result, calls = _timed(runner, order, run, runs, report, callback)
    for place, path in enumerate(run.images):
        about = _generation(bundle, order, run, place)
        if bundle.shape.frames is None:
            save_picture(result.images[place], path, about)
            continue
        save_video(result.images[place], path.with_suffix(PNG), about)
        if path.suffix.lower() in MOVING:
            MOVING[path.suffix.lower()](result.images[place], path, order.fps)
    if run.latents is not None:
        save_latents_to(result.latents, run.latents)
    return Made(run.prompt, run.seed, run.images, result.seconds, calls)


def _timed(
    runner: Runner,
    order: Order,
    run: Run,
    runs: int,
    report: Callable[..., None],
    callback: Callable[[Progress], None] | None,
) -> tuple[Result, tuple[float, ...]]:
    """One run, and the seconds of its calls."""
    count = len(runner.bundle.calls)
    which = "" if runs == 1 else f"run {run.number + 1} of {runs}, "
    ends: list[float] = []

    def tell(call: int, *_: object) -> None:
        ends.append(time.perf_counter())
        share = (run.number + (call + 1) / count) / runs
        report(f"{which}call {call + 1} of {count}", share)
        if callback is not None:
            preview = partial(runner.preview, call)
            callback(Progress(run.prompt, run.seed, run.number, runs, call, count, preview))

    report(f"{which}{count} calls", run.number / runs)
    began = time.perf_counter()
    result = runner.run(
        run.prompt,
        latents=order.latents,
        seed=run.seed,
        negative=order.negative,
        guidance=order.guidance,
        pictures=order.pictures,
        lora_scales=order.lora_scales,
        on_call=tell if runner.on_host or callback is not None else None,
    )
    starts = [began + result.seconds["condition"], *ends]
    return result, tuple(end - start for start, end in zip(starts, ends, strict=False))


def _numbered(path: Path, number: int, count: int) -> Path:
    """`x.png` among several is `x-0.png`, `x-1.png`, ...; with as many digits as the last needs."""
    if count == 1:
        return path
    return path.with_stem(f"{path.stem}-{number:0{len(str(count - 1))}}")


def _generation(bundle: Bundle, order: Order, run: Run, place: int) -> Generation:
    subnet = bundle.subnet
    return Generation(
        prompt=run.prompt,
        negative=order.negative,
        seed=run.seed,
        image=place,
        images=bundle.shape.images,
        guidance=bundle.guidance if order.guidance is None else order.guidance,
        steps=subnet.binding.inference_steps,
        calls=len(bundle.calls),
        scheduler=subnet.binding.scheduler,
        subnet=subnet.method,
        pipeline=Path(bundle.pipeline).name,
        given_latents=order.latents is not None,
        version=version_of("stepcarve") or "unknown",
        lora_scales={each.name: each.scale for each in bundle.live_loras} | dict(order.lora_scales),
    )
