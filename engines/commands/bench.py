"""`stepcarve bench`: seconds and memory beside PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import cloup

from engines.bench.records import Against
from engines.commands.shared import lora_option, pipeline_option, threads_option
from engines.kinds import engine_names
from exporter.commands.shared import bundle_argument, variant_options
from search.commands import screen, shared
from search.commands.values import AT_LEAST_0, AT_LEAST_1, PATH, Names

if TYPE_CHECKING:
    from pathlib import Path


@shared.command("bench")
@bundle_argument
@shared.option_group(
    "Engine",
    cloup.option(
        "--engine",
        "engines",
        type=Names(engine_names()),
        default="onnxruntime",
        help="Measure these engines.",
    ),
    shared.device_option,
    threads_option,
)
@shared.option_group(
    "Comparison",
    cloup.option(
        "--against",
        type=Names(Against, may_be_empty=True),
        default="eager,deepcache",
        help="Compare with PyTorch, without and with the SubNet (eager), the DeepCache package (deepcache), "
        "or torch.compile (compile).",
    ),
    pipeline_option,
    lora_option,
    cloup.option(
        "--full",
        type=PATH,
        help="Use this bundle as the full sampler.  [default: export one to OUT/full]",
    ),
    cloup.option(
        "--interval",
        type=AT_LEAST_1,
        help="Interval for the DeepCache package.  [default: the SubNet's]",
    ),
    cloup.option(
        "--branch",
        type=AT_LEAST_0,
        help="Branch for the DeepCache package.  [default: the SubNet's]",
    ),
    cloup.option("--repeats", type=AT_LEAST_1, default=5, help="Measure this many rounds."),
    cloup.option(
        "--warmup",
        type=AT_LEAST_1,
        default=1,
        help="Run this many rounds first, unmeasured.",
    ),
)
@variant_options()
@shared.output_options(
    cloup.option(
        "-o",
        "--out",
        type=PATH,
        required=True,
        help="Write the figures and a plot to this directory.",
    )
)
def command(
    bundle: Path,
    pipeline: Path | None,
    loras: tuple[Path, ...],
    against: tuple[str, ...],
    out: Path,
    as_json: bool,
    height: int | None,
    width: int | None,
    images: int | None,
    **options: Any,
) -> None:
    """Measure a bundle's time and memory against PyTorch's.

    Each row of the table runs in its own process, and the rows take turns.
    """
    screen.quiet_libraries()
    from engines.bench.run import BenchSettings, bench
    from engines.bench.show import tables, write_bench
    from exporter.bundle import Bundle

    if Against.DEEPCACHE not in against:
        unused = dict.fromkeys(("interval", "branch"), "with --against deepcache")
        shared.refuse_unused(shared.given_options(), unused)
    settings = BenchSettings(against=tuple(map(Against, against)), **options)
    opened = Bundle.open(bundle, height=height, width=width, images=images).with_loras(loras)
    with screen.status() as report:
        found = bench(opened, opened.find_pipeline(pipeline), settings, out=out, report=report)
    write_bench(found, out)
    if as_json:
        click.echo((out / "bench.json").read_text(encoding="utf-8"), nl=False)
    else:
        screen.print_tables(tables(found), 140)
        click.echo(f"plot: {out / 'bench.png'}")
