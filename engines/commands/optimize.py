"""`stepcarve optimize`: from a pipeline to a fast bundle and a page that proves it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click
import cloup

from engines.kinds import ENGINES, engine_names
from engines.optimize.settings import DEFAULT_KEEP, SEARCHES, TIERS
from search.commands import screen, shared
from search.commands.values import ABOVE_0, AT_LEAST_1, PATH, PROMPTS_FILE, Names, Number
from search.core.precision import denoiser_precisions

if TYPE_CHECKING:
    from pathlib import Path

GOALS = ("keep", "speedup", "max_error", "min_psnr")
NONE = "none"
SCHEMES = tuple(
    dict.fromkeys(scheme for kind in ENGINES for each in kind.schemes.values() for scheme in each)
)


@shared.command("optimize")
@shared.pipeline_argument
@shared.option_group(
    "Goal (at most one)",
    cloup.option(
        "--keep",
        type=Number(min=0, max=1, min_open=True),
        help=f"Keep this fraction of the full sampler's MACs.  [default: {DEFAULT_KEEP}]",
    ),
    cloup.option(
        "--speedup",
        type=Number(min=1),
        help="Divide the full sampler's MACs by this; 4 is --keep 0.25.",
    ),
    cloup.option(
        "--max-error",
        type=ABOVE_0,
        help="Find the lowest cost at which the final latents differ from the full sampler's by at most this "
        "(relative L2).",
    ),
    cloup.option(
        "--min-psnr",
        type=ABOVE_0,
        help="Find the lowest cost at which the pictures reach this PSNR to the full sampler's, in dB.",
    ),
)
@shared.option_group(
    "Work",
    cloup.option(
        "--quality",
        "tier",
        type=click.Choice([each.name for each in TIERS]),
        default=TIERS[1].name,
        help="How much work to put into the search and the measurements; the expected minutes are printed "
        "first.",
    ),
    cloup.option(
        "--method",
        type=click.Choice(SEARCHES),
        default=SEARCHES[0],
        help="Search with this method.",
    ),
    shared.split_streams_option,
    cloup.option(
        "--prompts",
        type=PROMPTS_FILE,
        default=(),
        show_default=False,
        help="Use the prompts in this text file, one per line: every other one to search, the rest to "
        "compare.  [default: the pipeline's prompts.txt, its classes, or built-in captions]",
    ),
    shared.seed_option,
)
@shared.option_group(
    "Engines",
    cloup.option(
        "--engine",
        "engines",
        type=Names(engine_names(), may_be_empty=True),
        default="",
        show_default=False,
        help="Measure these engines and take the fastest.  [default: all that work here]",
    ),
    cloup.option(
        "--dtype",
        "dtypes",
        type=Names([each.name for each in denoiser_precisions()]),
        default="float32",
        help="Measure the denoiser in these floating-point types and take the fastest.",
    ),
    cloup.option(
        "--precision",
        "precisions",
        type=Names((*SCHEMES, NONE)),
        help="Also quantise the denoiser to these precisions, and take one if it is faster and close enough.  "
        "[default: what the engines multiply fast in; none with --quality quick]",
    ),
    shared.device_option,
    cloup.option(
        "--threads",
        type=AT_LEAST_1,
        help="Compute with this many threads.  [default: the engine's own]",
    ),
    cloup.option(
        "--compute-capability",
        help="Build for GPUs of this compute capability, such as 8.9.  [default: this machine's]",
    ),
)
@shared.option_group(
    "Full sampler",
    shared.steps_option,
    shared.scheduler_option,
    shared.scheduler_options_option,
    shared.call_option,
    shared.guidance_option,
    shared.height_option,
    shared.width_option,
    shared.frames_option,
)
@shared.output_options(
    cloup.option(
        "-o",
        "--out",
        type=PATH,
        required=True,
        help="Write everything to this directory; after an interruption, the same command continues there.",
    )
)
def command(
    pipeline: Path,
    out: Path,
    tier: str,
    method: str,
    engines: tuple[str, ...],
    dtypes: tuple[str, ...],
    precisions: tuple[str, ...] | None,
    device: str,
    threads: int | None,
    compute_capability: str | None,
    scheduler: str | None,
    scheduler_options: tuple[tuple[str, Any], ...],
    call: tuple[tuple[str, Any], ...],
    split_streams: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Search, export, build, verify and measure, in one command.

    OUT/index.html shows the result: speed, pictures, quality against cost, parity, and the command that
    makes pictures. You can stop the command at any time and run it again. The exit code is 1 if parity
    fails or the requested quality is not reached.
    """
    screen.quiet_libraries()
    from engines.optimize.run import optimize
    from engines.optimize.settings import Goal, OptimizeSettings, tier_named
    from search.methods.options import Options

    wanted = {name: values.pop(name) for name in GOALS}
    if all(value is None for value in wanted.values()):
        wanted["keep"] = DEFAULT_KEEP
    settings = OptimizeSettings(
        pipeline=pipeline,
        goal=Goal(**wanted),
        tier=tier_named(tier),
        method=method,
        options=Options(**values),
        scheduler=scheduler,
        scheduler_options=scheduler_options,
        call=call,
        split_streams=split_streams,
        engines=engines,
        dtypes=dtypes,
        precisions=precisions and tuple(each for each in precisions if each != NONE),
        device=device,
        threads=threads,
        compute_capability=compute_capability,
    )
    with screen.status() as report:
        result = optimize(settings, out, report=report, note=_note)
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(result["verdict"])
        click.echo(result["run"] or "")
        click.echo(f"page: {out / 'index.html'}")
    if not result["passed"]:
        sys.exit(1)


def _note(text: str) -> None:
    click.echo(text, err=True)
