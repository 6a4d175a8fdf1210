"""`stepcarve run`: make pictures with a bundle."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click
import cloup

from engines.commands.shared import (
    engine_options,
    guidance_option,
    label_option,
    negative_option,
    prompt_option,
)
from engines.errors import EngineError
from exporter.commands.shared import bundle_argument, variant_options
from search.commands import screen, shared
from search.commands.values import ABOVE_0, AT_LEAST_0, LORA_SCALE, PATH, PROMPTS_FILE
from search.runs.parallel import Where

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engines.base import EngineOptions
    from engines.generate import Made
    from engines.runner import Runner
    from engines.spread import Loaded
    from exporter.bundle import Bundle


@shared.command("run")
@bundle_argument
@engine_options()
@shared.option_group(
    "Picture",
    prompt_option,
    label_option,
    cloup.option(
        "--prompts",
        type=PROMPTS_FILE,
        help="Make a picture of every prompt or class in this text file, one per line, and number the files.",
    ),
    negative_option,
    guidance_option,
    cloup.option(
        "--seed",
        type=AT_LEAST_0,
        default=0,
        help="Seed for the noise, which is the same as diffusers draws; further pictures of a prompt take the "
        "seeds that follow.",
    ),
    cloup.option(
        "--latents",
        type=PATH,
        help="Start from the latents in this .npy file: noise, or whatever else the bundle starts from.",
    ),
    cloup.option(
        "--image",
        type=PATH,
        help="Start from this picture, inpaint it, or be guided by it, whichever the bundle does; it is "
        "resized to the bundle's size.",
    ),
    cloup.option(
        "--mask",
        type=PATH,
        help="Inpaint where this picture is white; for bundles that take a mask.",
    ),
    cloup.option(
        "--ip-image",
        type=PATH,
        help="Show this picture to the bundle's IP-Adapter.",
    ),
    cloup.option(
        "--lora-scale",
        "lora_scales",
        type=LORA_SCALE,
        multiple=True,
        help="Scale of a LoRA that export --lora-live kept; may be repeated.  [default: as exported]",
    ),
)
@variant_options()
@shared.option_group(
    "Many pictures",
    cloup.option(
        "--resume",
        is_flag=True,
        help="Skip pictures whose files exist and were made by the same command.",
    ),
    shared.jobs_option,
    shared.parallel_option,
)
@shared.output_options(
    cloup.option(
        "-o",
        "--out",
        type=PATH,
        required=True,
        help="Write the picture to this PNG file. A video may also be a GIF or MP4 file; its frames are "
        "written beside it as PNG files.",
    ),
    cloup.option(
        "--fps", type=ABOVE_0, default=16.0, help="Frames per second of a GIF or MP4 file."
    ),
    cloup.option("--save-latents", type=PATH, help="Write the final latents to this .npy file."),
    cloup.option(
        "--preview",
        is_flag=True,
        help="Every few calls, write an approximation of the picture to OUT-preview.png, which is removed at "
        "the end.",
    ),
)
def command(
    bundle: Path,
    engine_name: str,
    device: str,
    options: EngineOptions,
    prompt: str | None,
    label: str | None,
    prompts: tuple[str, ...] | None,
    negative: str,
    guidance: float | None,
    seed: int,
    latents: Path | None,
    image: Path | None,
    mask: Path | None,
    ip_image: Path | None,
    lora_scales: tuple[tuple[str, float], ...],
    save_latents: Path | None,
    fps: float,
    out: Path,
    preview: bool,
    resume: bool,
    jobs: int,
    parallel: Where,
    as_json: bool,
    height: int | None,
    width: int | None,
    images: int | None,
) -> None:
    """Make pictures with a bundle, without PyTorch."""
    from engines.generate import Order, generate, open_for, prompts_for
    from engines.given import load_picture, require_pictures
    from engines.pictures import load_latents
    from engines.preview import preview_file, require_preview
    from engines.spread import Loaded, generate_spread
    from engines.video import MOVING, require_name

    opened = open_for(bundle, height=height, width=width, images=images)
    require_name(out, is_video=opened.shape.frames is not None)
    if out.suffix.lower() not in MOVING:
        shared.refuse_unused(shared.given_options(), {"fps": "with a GIF or MP4 file"})
    files = {"image": image, "mask": mask, "ip-image": ip_image}
    pictures = {name: load_picture(file) for name, file in files.items() if file is not None}
    require_pictures(opened, pictures, has_latents=latents is not None)
    order = Order(
        prompts=prompts_for(opened, prompt=prompt, label=label, listed=prompts),
        images=images or opened.shape.images,
        seed=seed,
        negative=negative,
        guidance=guidance,
        latents=None if latents is None else load_latents(latents),
        pictures=pictures,
        lora_scales=dict(lora_scales),
        fps=fps,
    )
    if preview:
        require_preview(opened)
    is_spread = jobs > 1 or parallel is not Where.LOCAL
    if is_spread and preview:
        msg = "--preview shows one run, but --jobs or --parallel makes many; leave one of them out"
        raise EngineError(msg)
    loaded = Loaded(bundle, opened.shape, engine_name, device, options)
    with screen.status() as report:
        if is_spread:
            seconds = 0.0
            made = generate_spread(
                loaded,
                order,
                out,
                save_latents=save_latents,
                resume=resume,
                jobs=jobs,
                where=parallel,
                report=report,
            )
        else:
            runner, seconds = _load(opened, loaded, report)
            path = out.with_stem(f"{out.stem}-preview")
            with preview_file(path) if preview else nullcontext() as callback:
                made = generate(
                    runner,
                    order,
                    out,
                    save_latents=save_latents,
                    resume=resume,
                    report=report,
                    callback=callback,
                )
    _print_made(made, len(opened.calls), seconds, as_json=as_json)


def _load(bundle: Bundle, loaded: Loaded, report: Callable[..., None]) -> tuple[Runner, float]:
    """A runner, and the seconds that loading took."""
    from engines.base import make_engine
    from engines.runner import Runner

    began = time.perf_counter()
    engine = make_engine(loaded.engine, loaded.device, loaded.options)
    report("load graphs")
    return Runner(bundle, engine), time.perf_counter() - began


def _print_made(made: list[Made], calls: int, loaded: float, *, as_json: bool) -> None:
    """The files and what they took."""
    paths = [str(path) for each in made for path in each.images]
    parts = made[0].seconds if made else {}
    spent = {name: sum(each.seconds[name] for each in made) for name in parts}
    if as_json:
        record = {"images": paths, "calls": calls, "load_seconds": loaded, "seconds": spent}
        click.echo(json.dumps({**record, "runs": [each.to_json() for each in made]}))
    elif not made:
        click.echo("all pictures are there already")
    else:
        files = ", ".join(paths) if len(paths) < 5 else f"{paths[0]} to {paths[-1]}"
        times = "" if len(made) == 1 else f"{len(made)} runs of "
        click.echo(f"{files}: {times}{calls} calls, {sum(spent.values()):.2f} s")
