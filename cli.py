"""The command line: parse, call one function, print, choose the exit code.

One function per command, in the order of use; what a command does is elsewhere, and so is what it prints
where that is more than a line. Above them are the options that several share, below what all of them need.
Nothing is imported before a command runs that `stepcarve --help` could do without.
"""

from __future__ import annotations

import functools
import json
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

    from engines.base import Engine, EngineOptions
    from engines.build import Plan
    from engines.parity.many import Verified
    from search.core.subnet import SubNet

FAILED = 1
BAD_INPUT = 2

PATH = click.Path(path_type=Path)
Command = Callable[..., Any]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stepcarve")
def main() -> None:
    """Make diffusion models faster without retraining, and prove it.

    \b
    A pipeline is a diffusers directory. The usual way:
      stepcarve search PIPELINE -o subnet.json --method deepcache
      stepcarve export PIPELINE subnet.json -o BUNDLE
      stepcarve verify BUNDLE --engine onnxruntime
      stepcarve run    BUNDLE --engine onnxruntime --prompt "..." -o image.png
    """  # noqa: D301  click wants the character itself


def command(function: Command) -> Command:
    """Register a command; its errors become one sentence on stderr and exit code 2."""
    from engines.errors import EngineError, NotFiniteError
    from exporter.errors import ExportError
    from search.core.errors import SearchError
    from search.core.files import require_pipeline

    @functools.wraps(function)
    def run(*, debug: bool, **options: Any) -> Any:
        try:
            # Told before the libraries are loaded, which takes seconds.
            if options.get("pipeline") is not None:
                require_pipeline(options["pipeline"])
            if options.get("subnet") is not None:
                from search.core.subnet import SubNet

                SubNet.load(options["subnet"])
            return function(**options)
        except (SearchError, ExportError, EngineError, OSError) as error:
            if debug:
                traceback.print_exc()
            click.echo(f"Error: {_sentence(error)}", err=True)
            sys.exit(FAILED if isinstance(error, NotFiniteError) else BAD_INPUT)
        except ModuleNotFoundError as error:
            if debug:
                traceback.print_exc()
            click.echo(
                f"Error: this needs {error.name!r}, which is not installed; install stepcarve with "
                "its dependencies, or run the command where it is",
                err=True,
            )
            sys.exit(BAD_INPUT)

    option = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    return main.command()(option(run))


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename!r}" if error.filename else error.strerror
    return str(error)


pipeline_argument = click.argument("pipeline", type=PATH)
bundle_argument = click.argument("bundle", type=PATH)
engine_option = click.option(
    "--engine",
    "engine_name",
    default="onnxruntime",
    show_default=True,
    help="What runs the graphs.",
)
device_option = click.option(
    "--device", default="cpu", show_default=True, help="cpu or cuda; never replaced silently."
)
steps_option = click.option(
    "--steps", default=50, show_default=True, help="Inference steps of the full sampler."
)
scheduler_option = click.option(
    "--scheduler", help="A diffusers scheduler class; default: the pipeline's own."
)
guidance_option = click.option(
    "--guidance", default=7.5, show_default=True, help="Guidance scale; 1 switches it off."
)
height_option = click.option(
    "--height", type=int, help="Of the image in pixels; default: the pipeline's."
)
width_option = click.option(
    "--width", type=int, help="Of the image in pixels; default: the pipeline's."
)
_VARIANT_OPTIONS = (
    click.option("--height", type=int, help="Of the pictures; default: the bundle's first size."),
    click.option("--width", type=int, help="Of the pictures; default: the bundle's first size."),
    click.option("--num-images", "images", type=int, help="Per prompt; default: the first number."),
)


def variant_options(function: Command) -> Command:
    """Which variant of a bundle: what is not given may be anything, and the first that fits is taken."""
    return functools.reduce(lambda made, option: option(made), reversed(_VARIANT_OPTIONS), function)


_ENGINE_OPTIONS = (
    click.option("--threads", type=int, help="That compute (onnxruntime, openvino)."),
    click.option("--precision", help="openvino: float32 (default), bfloat16 or float16."),
    click.option("--compute-capability", help="tensorrt-rtx: of the GPU to build for, as 8.9."),
    click.option("--optimization-level", type=int, help="tensorrt: of its builder, 0 to 5."),
    click.option("--workspace", type=int, help="tensorrt: memory its builder may use, in MiB."),
    click.option(
        "--strip-weights", is_flag=True, help="tensorrt: plans take the bundle's weights."
    ),
    click.option(
        "--cuda-graph/--no-cuda-graph", default=True, help="On cuda: record calls and replay them."
    ),
)


def engine_options(function: Command) -> Command:
    """What engines can be asked for, as the argument `options`; each refuses what it does not know."""

    @functools.wraps(function)
    def with_options(
        *,
        threads: int | None,
        precision: str | None,
        compute_capability: str | None,
        optimization_level: int | None,
        workspace: int | None,
        strip_weights: bool,
        cuda_graph: bool,
        **rest: Any,
    ) -> Any:
        from engines.base import EngineOptions

        options = EngineOptions(
            threads=threads,
            precision=precision,
            compute_capability=compute_capability,
            optimization_level=optimization_level,
            workspace=workspace,
            strip_weights=strip_weights,
            cuda_graph=cuda_graph,
        )
        return function(options=options, **rest)

    return functools.reduce(
        lambda made, option: option(made), reversed(_ENGINE_OPTIONS), with_options
    )


jobs_option = click.option(
    "--jobs",
    default=1,
    show_default=True,
    help="Processes at once, which share the machine's cores (of searches, only laptop's).",
)
parallel_option = click.option(
    "--parallel", default="local", show_default=True, help="Where they run: local, ray or dask."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


@command
@click.option("-o", "--out", type=PATH, default=Path("demo"), show_default=True)
@json_option
def demo(out: Path, as_json: bool) -> None:
    """Show the whole path on the shipped pipeline."""
    _quiet_libraries()
    from engines.demo import run_demo
    from engines.report import verdict

    with _status() as report:
        result = run_demo(out, report)
    if as_json:
        click.echo((out / "demo.json").read_text(), nl=False)
    else:
        _print_tables([result.table()], 120)
        click.echo(verdict(result.parity))
        click.echo(f"report: {result.page}")
    if not result.parity.passed:
        sys.exit(FAILED)


@command
@pipeline_argument
@click.option("-o", "--out", type=PATH, required=True, help="The SubNet to write, a JSON file.")
@click.option(
    "--method",
    required=True,
    help="full, deepcache, fewer-steps, random, dip-go; without layers: laptop, bk-sdm, ssd-1b, vega, every-second.",
)
@steps_option
@click.option("--timesteps", help="Of the full sampler, as in 999,749,499,249; instead of --steps.")
@click.option(
    "--sigmas", help="Noise levels of the full sampler, as its set_timesteps takes them; likewise."
)
@click.option("--start-step", default=0, help="Begin at this step, from the latents given to run.")
@click.option("--end-step", type=int, help="End before this step of the full sampler.")
@click.option(
    "--add-noise", is_flag=True, help="Begin from clean latents given to run: image to image."
)
@scheduler_option
@click.option(
    "--granularity",
    help="stage, branch or layer; default: branch, stage for dip-go, layer where layers are left out.",
)
@click.option(
    "--keep",
    default="0.5",
    show_default=True,
    help="Fraction of the full cost to keep; several, as in 0.2,0.3, make a file each.",
)
@click.option(
    "--cost",
    help="What --keep counts: macs, params, or latency as measured here; default: params for laptop and its like.",
)
@click.option(
    "--latencies",
    type=PATH,
    help="Keep measured times in this JSON file; those in it are not measured again.",
)
@engine_option
@click.option(
    "--interval", default=5, show_default=True, help="deepcache: every N-th step is full."
)
@click.option(
    "--branch", default=0, show_default=True, help="deepcache: cached layer, 0 outermost."
)
@click.option(
    "--recipe",
    default="default",
    show_default=True,
    help="dip-go, laptop: default (ours) or paper.",
)
@click.option(
    "--criterion",
    help="laptop: picture (default), output (the paper's), magnitude, taylor, task or ld-pruner.",
)
@click.option("--tuples", default=64, show_default=True, help="laptop: inputs to measure on.")
@jobs_option
@parallel_option
@click.option(
    "--variant", default="base", show_default=True, help="bk-sdm: base, small, tiny, keep."
)
@click.option("--pictures", type=int, help="dip-go: to calibrate with; default: 96.")
@click.option("--iterations", type=int, help="dip-go: of the gradient search, per keep.")
@click.option(
    "--fit-sampler/--no-fit-sampler",
    default=None,
    help="Fit the sampler's coefficients to the full sampler; dip-go does so by default.",
)
@click.option(
    "--reference-steps",
    type=int,
    help="Fit to a sampler with this many steps instead of --steps.",
)
@click.option(
    "--prompts",
    type=PATH,
    help="A file with one per line; default: prompts.txt of the pipeline, its classes, or built-in captions.",
)
@click.option(
    "--run", "folder", type=PATH, help="dip-go, laptop: directory for log, plot, checkpoints."
)
@click.option("--resume", is_flag=True, help="dip-go, laptop: go on from what is in --run.")
@guidance_option
@click.option("--seed", default=0, show_default=True, help="Of random choices.")
@height_option
@width_option
@device_option
@json_option
def search(
    pipeline: Path,
    out: Path,
    method: str,
    timesteps: str | None,
    sigmas: str | None,
    scheduler: str | None,
    granularity: str | None,
    keep: str,
    cost: str | None,
    latencies: Path | None,
    engine_name: str,
    prompts: Path | None,
    parallel: str,
    folder: Path | None,
    resume: bool,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Decide which blocks run at which step, and write that as a SubNet."""
    _quiet_libraries()
    from engines.base import make_engine
    from search.methods.options import (
        Options,
        cost_for,
        granularity_for,
        grid_of,
        keeps_of,
        require_cost,
        require_method,
        require_one_grid,
        require_run,
        require_used,
    )
    from search.methods.prompts import read_prompts
    from search.methods.registry import full, needs_weights, search_keeps
    from search.model.pipeline import open_pipeline, require_device
    from search.runs.parallel import where_of

    require_method(method)
    require_used(method, _given())
    require_run(folder, resume=resume)
    require_one_grid(_given())
    keeps = keeps_of(keep)
    chosen = Options(
        timesteps=grid_of(timesteps, "--timesteps"),
        sigmas=grid_of(sigmas, "--sigmas"),
        granularity=granularity_for(method, granularity),
        parallel=where_of(parallel),
        prompts=() if prompts is None else tuple(read_prompts(prompts)),
        **options,
    )
    cost = cost_for(method, cost)
    require_cost(cost, method, chosen.recipe, has_table=latencies is not None)
    require_device(device)
    engine = make_engine(engine_name, device) if cost == "latency" else None
    with _status() as report:
        report("open pipeline")
        opened = open_pipeline(pipeline, weights=needs_weights(method, chosen), device=device)
        if scheduler is not None:
            opened.use_scheduler(scheduler)
        with _price(
            cost, engine, pipeline, lambda: full(opened, chosen), latencies, report
        ) as price:
            report(f"search: {method}")
            found = search_keeps(
                opened,
                method,
                chosen,
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


def _print_found(
    files: list[Path],
    found: list[SubNet],
    shares: list[float],
    engine: Engine | None,
    *,
    as_json: bool,
) -> None:
    """What a search has made; `shares` are of the time on `engine`, if there is one."""
    from exporter.summary import one_line, summarise

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


def _given() -> list[str]:
    """The options of the present command that were given on its line."""
    context = click.get_current_context()
    given = click.core.ParameterSource.COMMANDLINE
    return [
        option.opts[-1].removeprefix("--")
        for option in context.command.params
        if option.name and context.get_parameter_source(option.name) is given
    ]


@contextmanager
def _price(
    cost: str,
    engine: Engine | None,
    pipeline: Path,
    whole: Callable[[], SubNet],
    latencies: Path | None,
    report: Callable[..., None],
) -> Iterator[Callable[[SubNet], float]]:
    """What a SubNet costs: MACs, parameters, or the time it takes on `engine`."""
    if engine is None:
        from search.laptop.layers import params_of
        from search.methods.schedules import keep_of

        yield params_of if cost == "params" else keep_of
        return
    from engines.latency import latency_table

    with latency_table(pipeline, whole(), engine, file=latencies, report=report) as table:
        yield table


def _numbered(out: Path, keep: float) -> Path:
    """`subnet.json` and 0.3 -> `subnet-0.3.json`."""
    return out.with_name(f"{out.stem}-{keep:g}{out.suffix}")


@command
@pipeline_argument
@click.option("-o", "--out", type=PATH, required=True, help="The directory to make.")
@steps_option
@scheduler_option
@guidance_option
@click.option(
    "--keep", default="0.5,0.3,0.2", show_default=True, help="Fractions of the full cost."
)
@click.option("--methods", help="To compare, as in ours,fewer-steps; default: all.")
@click.option("--prompts", type=PATH, help="To search and fit with, one per line.")
@click.option("--held-out", type=PATH, help="Prompts to judge with, one per line.")
@click.option("--count", default=32, show_default=True, help="Held-out pictures.")
@click.option("--judge", type=PATH, help="An ONNX classifier that reads attributes off pictures.")
@click.option("--features", type=PATH, help="The judge's features of real pictures, a .npy file.")
@click.option("--pictures", type=int, help="That our recipe calibrates with; default: 96.")
@click.option("--iterations", type=int, help="Of our gradient search, per keep.")
@click.option(
    "--paper-iterations",
    default=100,
    show_default=True,
    help="Of the paper's search, all keeps together; it publishes 1000.",
)
@click.option("--random", default=40, show_default=True, help="Random tables to try per keep.")
@click.option("--seed", default=0, show_default=True, help="Of noise and random choices.")
@device_option
@json_option
def frontier(
    pipeline: Path,
    out: Path,
    keep: str,
    methods: str | None,
    prompts: Path | None,
    held_out: Path | None,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare our search with the paper's and with simple baselines: quality against cost."""
    _quiet_libraries()
    from search.core.files import require_free
    from search.frontier.run import run_frontier
    from search.frontier.settings import Method, Settings, methods_of
    from search.frontier.table import full_judged, tables
    from search.frontier.write import write_frontier
    from search.methods.options import keeps_of
    from search.methods.prompts import read_prompts
    from search.model.pipeline import open_pipeline, require_device

    require_free(out)
    settings = Settings(
        keeps=keeps_of(keep),
        methods=tuple(Method) if methods is None else methods_of(methods),
        prompts=() if prompts is None else tuple(read_prompts(prompts)),
        held_out=() if held_out is None else tuple(read_prompts(held_out)),
        **options,
    )
    require_device(device)
    with _status() as report:
        report("open pipeline")
        opened = open_pipeline(pipeline, device=device)
        found = run_frontier(opened, settings, report=report)
        report("write")
        write_frontier(found, out)
    if as_json:
        click.echo((out / "frontier.json").read_text(encoding="utf-8"), nl=False)
    else:
        _print_tables(tables(found), 200)
        click.echo("\n".join(filter(None, (full_judged(found), *found.notes))))
        click.echo(f"page: {out / 'frontier.html'}")


@command
@pipeline_argument
@click.argument("subnet", type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="The pipeline directory to make.")
@click.option(
    "--data",
    type=PATH,
    required=True,
    help="A folder of pictures with captions, see docs/distill.md.",
)
@click.option(
    "--loss", default="normalized", show_default=True, help="normalized, plain or output."
)
@click.option(
    "--features", default="layer", show_default=True, help="To compare: of layer, branch or stage."
)
@click.option("--iterations", default=2000, show_default=True, help="Steps of the optimiser.")
@click.option("--minutes", type=float, help="Make only the iterations that fit in this time.")
@click.option("--batch", default=32, show_default=True, help="Pictures at once, per process.")
@click.option("--accumulate", default=1, show_default=True, help="Batches per iteration.")
@click.option("--learning-rate", default=5e-4, show_default=True, help="The highest.")
@click.option(
    "--task-weight", default=1.0, show_default=True, help="Of the error against the true noise."
)
@click.option(
    "--output-weight", default=1.0, show_default=True, help="Of the error against the teacher."
)
@click.option(
    "--feature-weight", default=1.0, show_default=True, help="Of the errors of the features."
)
@click.option("--drop", default=0.1, show_default=True, help="Share without their captions.")
@click.option("--ema", default=0.995, show_default=True, help="Of the averaged weights.")
@click.option("--precision", default="no", show_default=True, help="no (float32), bf16 or fp16.")
@click.option("--save-every", default=200, show_default=True, help="Iterations per checkpoint.")
@click.option("--seed", default=0, show_default=True, help="Of all that is drawn.")
@click.option("--run", "folder", type=PATH, help="For log and checkpoints; default: OUT.run.")
@click.option("--resume", is_flag=True, help="Go on from what is in --run.")
@device_option
@json_option
def distill(
    pipeline: Path,
    subnet: Path,
    out: Path,
    data: Path,
    loss: str,
    features: str,
    folder: Path | None,
    resume: bool,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Take the blocks that SUBNET skips out of a pipeline for good, and train what is left."""
    _quiet_libraries()
    from search.core.subnet import SubNet
    from search.distill.data import read_folder
    from search.distill.distill import distill as run
    from search.distill.recipe import Recipe, loss_of
    from search.methods.options import granularity_of
    from search.model.pipeline import require_device

    recipe = Recipe(loss=loss_of(loss), features=granularity_of(features), **options)
    require_device(device)
    with _status() as report:
        done = run(
            pipeline,
            SubNet.load(subnet),
            read_folder(data),
            recipe,
            out,
            folder=folder or out.with_name(f"{out.name}.run"),
            resume=resume,
            device=device,
            report=report,
        )
    if as_json:
        click.echo(json.dumps(done.to_json()))
    else:
        click.echo(f"{out}: {done.line()}")


@command
@click.argument("source", type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="The SubNet to write, a JSON file.")
@click.option(
    "--format",
    "format_name",
    required=True,
    help="What SOURCE is: dip-go-gates, deepcache, learning-to-cache or cache-dit-mask.",
)
@click.option("--pipeline", type=PATH, required=True, help="What the SubNet is for.")
@click.option("--steps", type=int, help="Inference steps; default: as many as SOURCE has, or 50.")
@scheduler_option
@guidance_option
@height_option
@width_option
@click.option(
    "--threshold", type=float, help="Scores above it compute (learning-to-cache); default 0.1."
)
@json_option
def import_command(
    source: Path,
    out: Path,
    format_name: str,
    pipeline: Path,
    steps: int | None,
    scheduler: str | None,
    threshold: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Read a table that another project published, and write it as a SubNet."""
    _quiet_libraries()
    from exporter.summary import one_line, summarise
    from search.foreign.importers import read_foreign
    from search.methods.options import Options
    from search.model.pipeline import open_pipeline

    foreign = read_foreign(source, format_name, threshold)
    count = foreign.steps if steps is None else steps
    chosen = Options(**options) if count is None else Options(steps=count, **options)
    with _status() as report:
        report("open pipeline")
        opened = open_pipeline(pipeline, weights=False)
        if scheduler is not None:
            opened.use_scheduler(scheduler)
        report(f"import: {format_name}")
        subnet = foreign.subnet(opened, chosen)
        subnet.save(out)
    summary = summarise(subnet)
    if as_json:
        click.echo(json.dumps(summary))
    else:
        click.echo(f"{out}: {one_line(summary)}")


@command
@click.argument("source", type=PATH)
@click.option("--image", type=PATH, help="Also draw the grid to this PNG, SVG or PDF file.")
@variant_options
@json_option
def inspect(source: Path, image: Path | None, as_json: bool, **shape: int | None) -> None:
    """Show what a SubNet, or the SubNet in a bundle, does at each step."""
    from exporter.bundle import Bundle
    from exporter.picture import draw_grid, grid_lines, save_figure
    from exporter.summary import call_times, one_line, summarise
    from search.core.errors import SearchError
    from search.core.subnet import SubNet

    if source.is_dir():
        bundle = Bundle.open(source, **shape)
        subnet = bundle.subnet
        summary = summarise(subnet, bundle.latent_shape[0], bundle.dtype)
    else:
        if any(shape.values()):
            msg = (
                "a SubNet has one shape; give --height, --width and --num-images for a bundle only"
            )
            raise SearchError(msg)
        subnet = SubNet.load(source)
        summary = summarise(subnet)
    if image is not None:
        save_figure(draw_grid(subnet), image)
    if as_json:
        click.echo(json.dumps(summary))
        return
    click.echo("\n".join(grid_lines(subnet)))
    click.echo()
    click.echo(one_line(summary))
    if summary["fitted"]:
        click.echo(call_times(summary))
    if image is not None:
        click.echo(f"drawn to {image}")


@command
@pipeline_argument
@click.argument("subnet", type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="The bundle to make, a directory.")
@click.option(
    "--dtype",
    default="float32",
    show_default=True,
    help="Of the denoiser: float32, float16 or bfloat16.",
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    help="HEIGHTxWIDTH in pixels, once or several times; default: the SubNet's.",
)
@click.option(
    "--batch",
    "batches",
    type=int,
    multiple=True,
    default=(1,),
    show_default=True,
    help="Images per prompt, once or several times.",
)
@json_option
def export(
    pipeline: Path,
    subnet: Path,
    out: Path,
    dtype: str,
    sizes: tuple[str, ...],
    batches: tuple[int, ...],
    as_json: bool,
) -> None:
    """Carve the step graphs of a SubNet out of its pipeline, into a bundle.

    The bundle holds a variant for every --size with every --batch; they share the weights.
    """
    _quiet_libraries()
    from exporter.export import export as run_export
    from exporter.summary import summarise
    from search.core.subnet import SubNet
    from search.methods.options import sizes_of

    loaded = SubNet.load(subnet)
    wanted = sizes_of(sizes)
    with _status() as report:
        bundle = run_export(
            pipeline, loaded, out, sizes=wanted, batches=batches, dtype=dtype, report=report
        )
    size = sum(file.stat().st_size for file in bundle.path.iterdir())
    if as_json:
        summary = summarise(bundle.subnet, bundle.shape.images, dtype)
        variants = [vars(shape) for shape in bundle.shapes]
        click.echo(json.dumps({"bundle": str(out), "bytes": size, "variants": variants, **summary}))
    else:
        count, made = len(bundle.graphs), ", ".join(map(str, bundle.shapes))
        graphs = "step graph" if count == 1 else "step graphs"
        click.echo(
            f"{out}: {made}; {len(bundle.calls)} calls, {count} {graphs}, {size / 1e6:.1f} MB"
        )


@command
@bundle_argument
@engine_option
@device_option
@engine_options
@jobs_option
@parallel_option
@click.option("--dry-run", is_flag=True, help="Only say what would be built, with estimates.")
@json_option
def build(
    bundle: Path,
    engine_name: str,
    device: str,
    options: EngineOptions,
    jobs: int,
    parallel: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build the engine of every graph that has none yet, of all variants.

    What is built stays when the command is stopped, and the next one goes on from there. Engines that
    compile in memory load every graph instead.
    """
    from engines.base import make_engine
    from engines.build import build_bundle, load_all, plan_build
    from exporter.bundle import Bundle
    from search.runs.parallel import require_workers, where_of

    where = where_of(parallel)
    require_workers(jobs)
    engine = make_engine(engine_name, device, options)
    opened = Bundle.open(bundle)
    with _status() as report:
        plan = plan_build(opened, engine, report)
    if dry_run or (plan.missing and not as_json):
        _print_plan(plan, engine_name, jobs, as_json=as_json)
    if dry_run:
        return
    with _status() as report:
        if plan.folder is None:
            seconds = load_all(opened, engine, report)
        else:
            done = build_bundle(opened, engine, jobs=jobs, where=where, plan=plan, report=report)
            seconds = done.seconds
    graphs, missing = len(plan.items), len(plan.missing)
    if as_json:
        record = {"engine": engine_name, "device": device, "graphs": graphs, "built": missing}
        size = 0 if plan.folder is None else done.bytes
        click.echo(json.dumps({**record, "bytes": size, "seconds": seconds}))
    elif plan.folder is None:
        click.echo(
            f"{bundle}: {graphs} graphs load on {engine_name} ({device}) in {seconds:.1f} s; "
            f"{engine_name} compiles them in memory, so nothing is written"
        )
    else:
        click.echo(
            f"{plan.folder}: {missing} graphs built in {seconds:.1f} s, {graphs - missing} were "
            f"there; {done.bytes / 1e6:.1f} MB"
        )


def _print_plan(plan: Plan, engine: str, jobs: int, *, as_json: bool) -> None:
    """What is to be built; nothing for an engine that builds no files."""
    if as_json:
        items = [vars(item) for item in plan.items]
        total = {"seconds": plan.seconds(jobs), "bytes": plan.bytes}
        click.echo(json.dumps({"engine": engine, **total, "graphs": items}))
    elif plan.folder is not None and plan.missing:
        from engines.build import plan_table

        _print_tables([plan_table(plan, jobs)], 100)
    else:
        click.echo("nothing to build" + ("" if plan.folder else f": {engine} compiles in memory"))


@command
@click.argument("bundles", type=PATH, nargs=-1, required=True)
@click.option(
    "--engine",
    "engine_names",
    multiple=True,
    default=("onnxruntime",),
    show_default=True,
    help="What runs the graphs; several as in onnxruntime,openvino.",
)
@device_option
@engine_options
@click.option("--pipeline", type=PATH, help="Default: where the bundle was exported from.")
@click.option("--prompt", help="What to sample; a class name or number where there are classes.")
@click.option("--label", help="The class to sample, by number or name.")
@click.option("--negative", default="", help="Negative prompt.")
@click.option("--guidance", type=float, help="Guidance scale; default: the bundle's.")
@click.option("--seed", default=0, show_default=True, help="Of the noises.")
@click.option(
    "--k",
    default=5.0,
    show_default=True,
    help="Allow differences of this many times what rounding alone makes.",
)
@click.option("--bisect", is_flag=True, help="Where a call is off, name the first block that is.")
@click.option(
    "--report", "report_folder", type=PATH, help="Write an HTML page, JSON and JUnit XML there."
)
@click.option("--junit", type=PATH, help="Write JUnit XML to this file.")
@variant_options
@click.option("--all-variants", is_flag=True, help="Every variant that fits, not the first alone.")
@jobs_option
@parallel_option
@json_option
def verify(
    bundles: tuple[Path, ...],
    engine_names: tuple[str, ...],
    report_folder: Path | None,
    junit: Path | None,
    all_variants: bool,
    height: int | None,
    width: int | None,
    images: int | None,
    jobs: int,
    parallel: str,
    as_json: bool,
    **settings: Any,
) -> None:
    """Compare bundles with the PyTorch reference; exit 0 only if parity holds for all."""
    _quiet_libraries()
    from engines.parity.many import Plan, verify_many
    from search.methods.options import names_of
    from search.runs.parallel import where_of

    plan = Plan(
        bundles=bundles,
        engines=names_of(",".join(engine_names)),
        shape=(height, width, images),
        all_variants=all_variants,
        folder=report_folder,
        junit=junit,
        **settings,
    )
    where = where_of(parallel)
    with _status() as report:
        done = verify_many(plan.checks(), jobs=jobs, where=where, report=report)
    if as_json:
        records = [{"bundle": each.name, **each.parity.to_json()} for each in done]
        click.echo(json.dumps(records if plan.is_of_several else done[0].parity.to_json()))
    else:
        _print_verified(done)
    if not all(verified.parity.passed for verified in done):
        sys.exit(FAILED)


def _print_verified(done: list[Verified]) -> None:
    """Each verdict; with the bundle's name where there are several."""
    from engines.report import verdict

    for each in done:
        start = f"{each.name}: " if len(done) > 1 else ""
        for sentence in (*each.parity.failures, *each.parity.blocks):
            click.echo(start + sentence)
        click.echo(start + verdict(each.parity))
        if each.page is not None:
            click.echo(f"report: {each.page}")


@command
@bundle_argument
@engine_option
@device_option
@engine_options
@click.option("--prompt", help="What to show.")
@click.option("--label", help="The class to show, by number or name.")
@click.option(
    "--prompts", type=PATH, help="A file with a prompt or class per line; pictures get numbers."
)
@click.option("--negative", default="", help="What to guide away from.")
@click.option("--guidance", type=float, help="Guidance scale; default: the bundle's.")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help="The same picture as in diffusers; further runs for a prompt take those that follow.",
)
@click.option(
    "--latents",
    type=PATH,
    help="What to begin from, a .npy file [B, C, H, W]: noise, or what the bundle takes.",
)
@click.option("--save-latents", type=PATH, help="Write the final latents to this .npy file.")
@click.option("-o", "--out", type=PATH, required=True, help="The picture, a PNG file.")
@variant_options
@json_option
def run(
    bundle: Path,
    engine_name: str,
    device: str,
    options: EngineOptions,
    prompt: str | None,
    label: str | None,
    prompts: Path | None,
    negative: str,
    guidance: float | None,
    seed: int,
    latents: Path | None,
    save_latents: Path | None,
    out: Path,
    as_json: bool,
    height: int | None,
    width: int | None,
    images: int | None,
) -> None:
    """Make pictures with a bundle, without PyTorch."""
    import time

    from engines.base import make_engine
    from engines.generate import Order, generate, open_for, prompts_for
    from engines.pictures import load_latents, require_png
    from engines.runner import Runner
    from search.methods.prompts import read_prompts

    require_png(out)
    opened = open_for(bundle, height=height, width=width, images=images)
    listed = None if prompts is None else read_prompts(prompts)
    order = Order(
        prompts=prompts_for(opened, prompt=prompt, label=label, listed=listed),
        images=images or opened.shape.images,
        seed=seed,
        negative=negative,
        guidance=guidance,
        latents=None if latents is None else load_latents(latents),
    )
    engine = make_engine(engine_name, device, options)
    began = time.perf_counter()
    with _status() as report:
        report("load graphs")
        runner = Runner(opened, engine)
        loaded = time.perf_counter() - began
        made = generate(runner, order, out, save_latents=save_latents, report=report)
    paths = [str(path) for each in made for path in each.images]
    count = len(opened.calls)
    spent = {name: sum(each.seconds[name] for each in made) for name in made[0].seconds}
    if as_json:
        record = {"images": paths, "calls": count, "load_seconds": loaded, "seconds": spent}
        click.echo(json.dumps({**record, "runs": [each.to_json() for each in made]}))
    else:
        files = ", ".join(paths) if len(paths) < 5 else f"{paths[0]} to {paths[-1]}"
        times = "" if len(made) == 1 else f"{len(made)} runs of "
        click.echo(f"{files}: {times}{count} calls, {sum(spent.values()):.2f} s")


@command
@bundle_argument
@click.option(
    "--engine",
    "engines",
    default="onnxruntime",
    show_default=True,
    help="One or several, as in onnxruntime,openvino.",
)
@device_option
@click.option("--pipeline", type=PATH, help="Default: where the bundle was exported from.")
@click.option(
    "--against",
    default="eager,deepcache",
    show_default=True,
    help="PyTorch as it is and gated (eager), the DeepCache package, torch.compile (compile).",
)
@click.option(
    "--full", type=PATH, help="The full sampler's bundle; default: export it to OUT/full."
)
@click.option("--interval", type=int, help="DeepCache package; default: what the SubNet does.")
@click.option("--branch", type=int, help="DeepCache package; default: what the SubNet does.")
@click.option("--repeats", default=5, show_default=True, help="Rounds that count.")
@click.option("--warmup", default=1, show_default=True, help="Rounds before them.")
@click.option(
    "--threads",
    type=int,
    help="That compute; default: OMP_NUM_THREADS, else each row's own choice.",
)
@click.option("-o", "--out", type=PATH, required=True, help="Directory for figures and plot.")
@variant_options
@json_option
def bench(
    bundle: Path,
    engines: str,
    device: str,
    pipeline: Path | None,
    against: str,
    out: Path,
    as_json: bool,
    height: int | None,
    width: int | None,
    images: int | None,
    **options: Any,
) -> None:
    """Measure seconds and memory beside PyTorch, all rows in turn in one run."""
    _quiet_libraries()
    from engines.bench.records import against_of
    from engines.bench.run import Settings
    from engines.bench.run import bench as run_bench
    from engines.bench.show import tables, write_bench
    from exporter.bundle import Bundle
    from search.methods.options import names_of

    settings = Settings(
        engines=names_of(engines), device=device, against=against_of(against), **options
    )
    opened = Bundle.open(bundle, height=height, width=width, images=images)
    with _status() as report:
        found = run_bench(opened, opened.find_pipeline(pipeline), settings, out=out, report=report)
    write_bench(found, out)
    if as_json:
        click.echo((out / "bench.json").read_text(encoding="utf-8"), nl=False)
    else:
        _print_tables(tables(found), 140)
        click.echo(f"plot: {out / 'bench.png'}")


@command
@json_option
def doctor(as_json: bool) -> None:
    """Say what is installed, what works and what to install."""
    from engines.doctor import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([vars(finding) for finding in findings]))
        return
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = "ok" if finding.works else "--"
        click.echo(f"{mark}  {finding.name:<{width}}  {finding.detail}")


def _print_tables(tables: Iterable[Table], width: int) -> None:
    """On a terminal as wide as it is, elsewhere `width` columns wide."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else width)
    for table in tables:
        console.print(table)


@contextmanager
def _status() -> Iterator[Callable[..., None]]:
    """What is being done, and a bar where its share is known; on stderr, on terminals only."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _text, _share=None: None
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("start", total=None)
        yield lambda text, share=None: progress.update(
            task, description=text, total=None if share is None else 1, completed=share or 0
        )


def _quiet_libraries() -> None:
    """Keep the libraries' own progress bars and notices off the screen, and off the network."""
    import logging
    import os
    import warnings

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.simplefilter("ignore")
    for name in ("torch.onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
