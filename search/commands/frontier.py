"""`stepcarve frontier`: quality against cost, for every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import cloup

from search.commands import screen, shared
from search.commands.values import AT_LEAST_1, AT_LEAST_2, FRACTIONS, PATH, PROMPTS_FILE, Names
from search.core.quantisation import SCHEMES
from search.methods import carve

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


def _names() -> tuple[str, ...]:
    from search.frontier.registry import NAMES  # loads numpy

    return tuple(NAMES)


@shared.command("frontier")
@shared.pipeline_argument
@shared.option_group(
    "Comparison",
    cloup.option(
        "--methods",
        type=Names(_names),
        help="Compare only these methods.  [default: all]",
    ),
    cloup.option(
        "--keep",
        "keeps",
        type=FRACTIONS,
        default="0.5,0.3,0.2",
        help="Compare at these fractions of the full cost.",
    ),
    shared.prompts_option,
    cloup.option(
        "--held-out",
        type=PROMPTS_FILE,
        default=(),
        show_default=False,
        help="Evaluate with the prompts in this text file, one per line.  [default: prompts that no "
        "method has seen]",
    ),
    cloup.option("--count", type=AT_LEAST_2, default=32, help="Evaluate on this many pictures."),
    cloup.option(
        "--judge",
        type=FILE,
        help="Also measure accuracy with this ONNX classifier of picture attributes.",
    ),
    cloup.option(
        "--features",
        type=FILE,
        help="With --judge, measure the Fréchet distance to the features of real pictures in this .npy "
        "file.",
    ),
    cloup.option(
        "--fine-steps",
        type=AT_LEAST_1,
        help="Number of inference steps of the fine reference.  [default: 10 x the full sampler's]",
    ),
    cloup.option(
        "--reference-steps",
        type=AT_LEAST_1,
        help="Fit to a sampler with this many steps instead of the full one.",
    ),
    cloup.option(
        "--precision",
        "precisions",
        type=Names([each.name for each in SCHEMES], may_be_empty=True),
        default="",
        show_default=False,
        help="Also quantise every fitted SubNet to these precisions, and compare.  [default: none]",
    ),
    shared.seed_option,
)
@shared.option_group(
    "Full sampler",
    shared.steps_option,
    shared.scheduler_option,
    shared.scheduler_options_option,
    shared.call_option,
    shared.split_streams_option,
    shared.guidance_option,
)
@shared.option_group(
    "Effort",
    cloup.option(
        "--pictures",
        type=AT_LEAST_2,
        help="Calibrate every method with this many pictures.  "
        f"[default: {carve.METHOD.defaults['pictures']}]",
    ),
    cloup.option(
        "--iterations",
        type=AT_LEAST_1,
        help="Number of iterations of carve and bns, for each keep. By default, fewer where many calls are kept.  "
        f"[default: {carve.METHOD.defaults['iterations']}]",
    ),
    cloup.option(
        "--dip-go-iterations",
        type=AT_LEAST_1,
        default=100,
        help="Number of iterations of dip-go, for all keeps together; its paper uses 1000.",
    ),
    cloup.option(
        "--random",
        type=AT_LEAST_1,
        default=40,
        help="Number of candidates that random, step-mask and budcache try, for each keep.",
    ),
    shared.device_option,
    shared.dtype_option,
)
@shared.output_options(
    cloup.option(
        "-o",
        "--out",
        type=PATH,
        required=True,
        help="Write the page, the plot and the SubNets to this new directory.",
    )
)
def command(
    pipeline: Path,
    out: Path,
    methods: tuple[str, ...] | None,
    call: tuple[tuple[str, Any], ...],
    split_streams: bool,
    device: str,
    dtype: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare search methods by quality and cost.

    The comparison covers our searches, published rivals and simple baselines.
    """
    screen.quiet_libraries()
    from search.core.files import require_free
    from search.frontier.registry import NAMES, SERIES, series_named
    from search.frontier.run import run_frontier
    from search.frontier.settings import FrontierSettings
    from search.frontier.table import full_attributes, tables
    from search.frontier.write import write_frontier
    from search.model.opening import open_asked, require_device

    methods = methods or tuple(NAMES)
    unused = {
        name: f"for {', '.join(each.name for each in SERIES if name in each.options)}"
        for name in dict.fromkeys(option for series in SERIES for option in series.options)
        if not any(name in series_named(method).options for method in methods)
    }
    unused |= {} if options["judge"] else {"features": "with --judge"}
    shared.refuse_unused(shared.given_options(), unused)
    require_free(out)
    settings = FrontierSettings(methods=tuple(map(series_named, methods)), **options)
    require_device(device)
    with screen.status() as report:
        report("open pipeline")
        opened = open_asked(
            pipeline,
            scheduler=None,
            call=call,
            split_streams=split_streams,
            device=device,
            dtype=dtype,
        )
        found = run_frontier(opened, settings, report=report)
        report("write")
        write_frontier(found, out)
    if as_json:
        click.echo((out / "frontier.json").read_text(encoding="utf-8"), nl=False)
    else:
        screen.print_tables(tables(found), 200)
        click.echo("\n".join(filter(None, (full_attributes(found), *found.notes))))
        click.echo(f"page: {out / 'frontier.html'}")
