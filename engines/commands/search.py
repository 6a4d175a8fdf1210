"""`stepcarve search`: decide which blocks run at which step."""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import cloup

from engines.kinds import engine_names
from search.commands import screen, shared
from search.commands.values import (
    AT_LEAST_0,
    AT_LEAST_1,
    AT_LEAST_2,
    FALLING,
    FRACTIONS,
    NUMBER,
    PATH,
    OneOf,
)
from search.core.granularity import Granularity
from search.laptop.settings import Criterion
from search.methods.method import COSTS
from search.methods.registry import METHODS, NAMES
from search.methods.removals import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from engines.base import Engine
    from search.core.subnet import SubNet
    from search.methods.method import Method
    from search.methods.options import Options


def _defaults(name: str, of: Callable[[Method], object]) -> str:
    """The methods' own defaults of an option, such as `[default: 8 (carve), 1000 (dip-go)]`."""
    methods: dict[str, list[str]] = {}
    for method in METHODS:
        if name in (*method.own, "granularity"):
            methods.setdefault(str(of(method)), []).append(method.name)
    values = ", ".join(f"{value} ({', '.join(names)})" for value, names in methods.items())
    return f"[default: {values}]"


def _for(name: str, text: str, **attributes: Any) -> shared.Decorator:
    """An option that only some methods use; its help names them. A truth value may be denied."""
    users = [method.name for method in METHODS if name in method.own]
    denied = f"/--no-{name}" if isinstance(attributes.get("default"), bool) else ""
    return cloup.option(f"--{name}{denied}", help=shared.used_by(text, users), **attributes)


def _methods() -> str:
    """What each method does, for the end of the help."""
    width = max(map(len, NAMES))
    lines = (f"  {method.name:<{width}}  {method.help}" for method in METHODS)
    return "\n".join(("\b", "Methods:", *lines))


@shared.command("search", epilog=_methods())
@shared.pipeline_argument
@shared.option_group(
    "Method",
    cloup.option(
        "--method",
        "name",
        type=click.Choice(NAMES),
        default=NAMES[0],
        help="Search with this method.",
    ),
    cloup.option(
        "--keep",
        "keeps",
        type=FRACTIONS,
        default="0.5",
        help="Keep this fraction of the full cost; a list, such as 0.2,0.3, writes one file for each.",
    ),
    cloup.option(
        "--granularity",
        type=OneOf(Granularity),
        help="Which submodules count as blocks.  "
        + _defaults("granularity", lambda m: m.granularity),
    ),
    cloup.option(
        "--cost",
        type=click.Choice(COSTS),
        help="What --keep is a fraction of: multiply-accumulates, parameters, or measured time.  "
        + _defaults("cost", lambda m: m.cost),
    ),
    shared.prompts_option,
    shared.seed_option,
)
@shared.option_group(
    "Full sampler",
    shared.steps_option,
    cloup.option(
        "--timesteps",
        type=FALLING,
        default=(),
        show_default=False,
        help="Use these timesteps instead of --steps, such as 999,749,499,249.",
    ),
    cloup.option(
        "--sigmas",
        type=FALLING,
        default=(),
        show_default=False,
        help="Use these noise levels instead of --steps, as the scheduler's set_timesteps takes them, such "
        "as 1.0,0.75,0.5,0.25.",
    ),
    cloup.option(
        "--start-step",
        type=AT_LEAST_0,
        default=0,
        help="Start at this step, from the latents given to run --latents.",
    ),
    cloup.option(
        "--end-step", type=AT_LEAST_1, help="Stop before this step.  [default: after the last step]"
    ),
    cloup.option(
        "--add-noise",
        is_flag=True,
        help="Start from clean latents, given to run --latents, and add noise to them: image to image.",
    ),
    shared.scheduler_option,
    shared.scheduler_options_option,
    shared.call_option,
    shared.split_streams_option,
    shared.guidance_option,
    shared.height_option,
    shared.width_option,
    shared.frames_option,
)
@shared.option_group(
    "Fixed schedules",
    _for("interval", "Compute all blocks at every N-th step only.", type=AT_LEAST_1, default=5),
    _for("branch", "Cache this branch; 0 is the outermost.", type=AT_LEAST_0, default=0),
    _for(
        "variant",
        "Remove the layers that this published variant lacks; keep removes them in the same order, down to "
        "--keep.",
        type=click.Choice(VARIANTS),
        default=VARIANTS[0],
    ),
)
@shared.option_group(
    "Searches",
    _for(
        "pictures",
        "Calibrate with this many pictures.  "
        + _defaults("pictures", lambda m: m.defaults["pictures"]),
        type=AT_LEAST_2,
    ),
    _for(
        "iterations",
        "Number of optimiser iterations. By default, carve makes fewer where many calls are kept.  "
        + _defaults("iterations", lambda m: m.defaults["iterations"]),
        type=AT_LEAST_1,
    ),
    _for(
        "thin",
        "Also try more calls than --keep allows: one that leaving out few blocks pays for and, "
        "where a step makes two calls of the denoiser (see --split-streams), some that leaving out the negative "
        "prompt pays for.",
        default=True,
    ),
    _for(
        "criterion",
        "Score a layer by how much its removal changes the denoiser's predictions (output, as in the paper) "
        "or the clean pictures predicted from them (picture, ours); the others are scores of other "
        "methods.",
        type=OneOf(Criterion),
        default=Criterion.OUTPUT.value,
    ),
    _for(
        "rounds",
        "Rounds of local search around the chosen layers.  [default: 0, as in the paper; 2 "
        "with --criterion picture]",
        type=AT_LEAST_0,
    ),
    _for(
        "adopt-sampler",
        "Take the fitted sampler of this SubNet, which was made for another model, size or dtype.",
        type=click.Path(dir_okay=False, exists=True),
    ),
    _for("tuples", "Score layers on this many denoiser inputs.", type=AT_LEAST_1, default=64),
    cloup.option(
        "--fit-sampler", is_flag=True, help="Fit the sampler's coefficients to the full sampler."
    ),
    cloup.option(
        "--reference-steps",
        type=AT_LEAST_1,
        help="Fit to a sampler with this many steps instead of --steps.",
    ),
    cloup.option(
        "--guidance-range",
        type=NUMBER,
        nargs=2,
        metavar="LOW HIGH",
        help="Fit for all guidance scales from LOW to HIGH, not for one: run --guidance then takes any.",
    ),
)
@shared.option_group(
    "Running",
    shared.device_option,
    shared.dtype_option,
    shared.jobs_option,
    shared.parallel_option,
    cloup.option(
        "--run", "folder", type=PATH, help="Keep the log, plots and checkpoints in this directory."
    ),
    cloup.option("--resume", is_flag=True, help="Continue the search in --run."),
    cloup.option(
        "--engine",
        "engine_name",
        type=click.Choice(engine_names()),
        default="onnxruntime",
        help="With --cost latency, measure time on this engine.",
    ),
    cloup.option(
        "--batch",
        type=AT_LEAST_1,
        default=1,
        help="With --cost latency, measure calls for this many pictures.",
    ),
    cloup.option(
        "--latencies",
        type=PATH,
        help="With --cost latency, keep the measured times in this JSON file, and measure only those that it "
        "lacks.",
    ),
)
@shared.output_options(shared.subnet_out_option())
def command(
    pipeline: Path,
    out: Path,
    name: str,
    keeps: tuple[float, ...],
    granularity: Granularity | None,
    cost: str | None,
    scheduler: str | None,
    scheduler_options: tuple[tuple[str, Any], ...],
    call: tuple[tuple[str, Any], ...],
    split_streams: bool,
    engine_name: str,
    batch: int,
    latencies: Path | None,
    folder: Path | None,
    resume: bool,
    device: str,
    dtype: str,
    as_json: bool,
    **values: Any,
) -> None:
    """Decide which blocks run at which step.

    The default method, carve, takes minutes. deepcache, fewer-steps and full take seconds.
    """
    screen.quiet_libraries()
    from engines.base import make_engine
    from search.methods.options import Options
    from search.methods.registry import method_of, needs_weights, search_keeps
    from search.methods.whole import full
    from search.model.opening import open_asked, require_device

    method = method_of(name)
    options = Options(granularity=Granularity(granularity or method.granularity), **values)
    cost = cost or method.cost
    _require_sense(method, options, cost, folder, resume=resume)
    require_device(device)
    engine = make_engine(engine_name, device) if cost == "latency" else None
    with screen.status() as report:
        report("open pipeline")
        loaded = needs_weights(name, options)
        opened = open_asked(
            pipeline,
            scheduler=scheduler,
            scheduler_options=scheduler_options,
            call=call,
            split_streams=split_streams,
            weights=loaded,
            device=device,
            dtype=dtype,
        )
        whole = partial(full, opened, options)
        with _price(cost, engine, batch, pipeline, whole, latencies, report) as price:
            report(f"search: {name}")
            found = search_keeps(
                opened,
                name,
                options,
                keeps,
                cost=price,
                folder=folder,
                resume=resume,
                report=report,
                note=lambda text: click.echo(text, err=True),
            )
            shares = [price(subnet) for subnet in found]
    files = [out] if len(keeps) == 1 else [_numbered(out, each) for each in keeps]
    for path, subnet in zip(files, found, strict=True):
        subnet.save(path)
    _print_found(files, found, shares, engine, as_json=as_json)


def _require_sense(
    method: Method, options: Options, cost: str, folder: Path | None, *, resume: bool
) -> None:
    """Refuse options that contradict each other, or that the method does not use."""
    from search.methods.method import require_choice, require_fit, require_used
    from search.methods.options import require_one_grid, require_run

    given = shared.given_options()
    require_one_grid(given)
    require_used(method, options, cost, given, METHODS)
    require_choice("granularity", options.granularity, method.granularities, method)
    if method.costs:
        require_choice("cost", cost, method.costs, method)
    require_run(folder, resume=resume)
    require_fit(options, method)


@contextmanager
def _price(
    cost: str,
    engine: Engine | None,
    batch: int,
    pipeline: Path,
    whole: Callable[[], SubNet],
    latencies: Path | None,
    report: Callable[..., None],
) -> Iterator[Callable[[SubNet], float]]:
    """What a SubNet costs: MACs, parameters, or the time it takes on `engine`."""
    if engine is None:
        from search.core.table import keep_of
        from search.laptop.layers import params_of

        yield params_of if cost == "params" else keep_of
        return
    from engines.latency import latency_table

    with latency_table(
        pipeline, whole(), engine, batch=batch, file=latencies, report=report
    ) as table:
        yield table


def _numbered(out: Path, keep: float) -> Path:
    """`subnet.json` and 0.3 -> `subnet-0.3.json`."""
    return out.with_name(f"{out.stem}-{keep:g}{out.suffix}")


def _print_found(
    files: list[Path],
    found: list[SubNet],
    shares: list[float],
    engine: Engine | None,
    *,
    as_json: bool,
) -> None:
    """Print the SubNets of a search; `shares` are fractions of the time on `engine`, if given."""
    from search.core.summary import one_line, summarise

    summaries = [summarise(subnet) for subnet in found]
    lines = [one_line(summary) for summary in summaries]
    if engine is not None:
        where = {"engine": engine.name, "device": engine.device}
        for number, share in enumerate(shares):
            summaries[number]["latency"] = {"keep": share, **where}
            lines[number] += f", {share:.1%} of the time on {engine.name} ({engine.device})"
    if as_json:
        click.echo(json.dumps(summaries[0] if len(files) == 1 else summaries))
        return
    for path, line in zip(files, lines, strict=True):
        click.echo(f"{path}: {line}")
