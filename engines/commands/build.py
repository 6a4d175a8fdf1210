"""`stepcarve build`: compile a bundle's graphs ahead of time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import cloup

from engines.commands.shared import engine_options
from exporter.commands.shared import bundle_argument
from search.commands import screen, shared

if TYPE_CHECKING:
    from pathlib import Path

    from engines.base import EngineOptions
    from engines.build import BuildPlan
    from search.runs.parallel import Where


@shared.command("build")
@bundle_argument
@engine_options()
@shared.option_group(
    "Running",
    shared.jobs_option,
    shared.parallel_option,
    cloup.option(
        "--dry-run",
        is_flag=True,
        help="Only list what would be built, with estimated time and size.",
    ),
)
@shared.output_options()
def command(
    bundle: Path,
    engine_name: str,
    device: str,
    options: EngineOptions,
    jobs: int,
    parallel: Where,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Compile the graphs of a bundle for an engine, ahead of time.

    Graphs that are built already are skipped, so you can stop the command at any time and run it again. An
    engine that compiles in memory loads every graph once instead, and nothing is written.
    """
    from engines.base import make_engine
    from engines.build import build_bundle, load_all, plan_build
    from exporter.bundle import Bundle
    from search.runs.parallel import require_place

    shared.refuse_unused(
        shared.given_options(), {"resident": "for runs; build loads one graph at a time"}
    )
    require_place(parallel)
    engine = make_engine(engine_name, device, options)
    opened = Bundle.open(bundle)
    with screen.status() as report:
        plan = plan_build(opened, engine, report)
    if plan.folder is None:
        unused = f"for engines that build files; {engine_name} compiles in memory"
        shared.refuse_unused(shared.given_options(), dict.fromkeys(("jobs", "parallel"), unused))
    if dry_run or (plan.missing and not as_json):
        _print_plan(plan, engine_name, jobs, as_json=as_json)
    if dry_run:
        return
    with screen.status() as report:
        if plan.folder is None:
            seconds, size = load_all(opened, engine, report), 0
        else:
            done = build_bundle(opened, engine, jobs=jobs, where=parallel, plan=plan, report=report)
            seconds, size = done.seconds, done.bytes
    graphs, missing = len(plan.items), len(plan.missing)
    if as_json:
        record = {"engine": engine_name, "device": device, "graphs": graphs, "built": missing}
        click.echo(json.dumps({**record, "bytes": size, "seconds": seconds}))
    elif plan.folder is None:
        click.echo(
            f"{bundle}: {graphs} graphs load on {engine_name} ({device}) in {seconds:.1f} s; "
            f"{engine_name} compiles them in memory, so nothing is written"
        )
    else:
        click.echo(
            f"{plan.folder}: {missing} graphs built in {seconds:.1f} s, {graphs - missing} had "
            f"been built before; {size / 1e6:.1f} MB"
        )


def _print_plan(plan: BuildPlan, engine: str, jobs: int, *, as_json: bool) -> None:
    """What is to be built; nothing for an engine that builds no files."""
    if as_json:
        items = [vars(item) for item in plan.items]
        total = {"seconds": plan.seconds(jobs), "bytes": plan.bytes}
        click.echo(json.dumps({"engine": engine, **total, "graphs": items}))
    elif plan.folder is not None and plan.missing:
        from engines.build import plan_line, plan_table

        click.echo(plan_line(plan, jobs))
        screen.print_tables([plan_table(plan)], 100)
    else:
        click.echo("nothing to build" + ("" if plan.folder else f": {engine} compiles in memory"))
