"""`stepcarve verify`: prove engines equal to the PyTorch reference."""

from __future__ import annotations

import json
import sys
from itertools import chain
from typing import TYPE_CHECKING, Any

import click
import cloup

from engines.commands.shared import (
    engine_options,
    guidance_option,
    label_option,
    lora_option,
    negative_option,
    pipeline_option,
    prompt_option,
)
from engines.kinds import engine_names
from exporter.commands.shared import variant_options
from search.commands import screen, shared
from search.commands.values import ABOVE_0, PATH, Names

if TYPE_CHECKING:
    from engines.parity.many import Verified
    from search.runs.parallel import Where

_engines_option = cloup.option(
    "--engine",
    "engine_names",
    type=Names(engine_names()),
    multiple=True,
    default=("onnxruntime",),
    show_default=False,
    help="Run the graphs on these engines.  [default: onnxruntime]",
)


@shared.command("verify")
@cloup.argument("bundles", type=PATH, nargs=-1, required=True)
@engine_options(_engines_option)
@shared.option_group(
    "Comparison",
    pipeline_option,
    lora_option,
    prompt_option,
    label_option,
    negative_option,
    guidance_option,
    shared.seed_option,
    cloup.option(
        "--k",
        type=ABOVE_0,
        default=5.0,
        help="Allow differences up to this many times the measured rounding error.",
    ),
    cloup.option(
        "--bisect",
        is_flag=True,
        help="If a call differs, find the first block whose output differs.",
    ),
)
@variant_options(
    cloup.option(
        "--all-variants",
        is_flag=True,
        help="Verify every variant that fits these options, not only the first.",
    )
)
@shared.option_group("Running", shared.jobs_option, shared.parallel_option)
@shared.output_options(
    cloup.option(
        "--report",
        "folder",
        type=PATH,
        help="Write a report to this directory: HTML, JSON and JUnit XML.",
    ),
    cloup.option("--junit", type=PATH, help="Write JUnit XML to this file."),
)
def command(
    engine_names: tuple[tuple[str, ...], ...],
    height: int | None,
    width: int | None,
    images: int | None,
    jobs: int,
    parallel: Where,
    as_json: bool,
    **settings: Any,
) -> None:
    """Compare bundles with the PyTorch reference.

    The exit code is 0 only if parity holds for all of them.
    """
    screen.quiet_libraries()
    from engines.parity.many import VerifyPlan, verify_many
    from search.runs.parallel import require_place

    require_place(parallel)
    names = tuple(dict.fromkeys(chain.from_iterable(engine_names)))
    plan = VerifyPlan(engines=names, shape=(height, width, images), **settings)
    with screen.status() as report:
        done = verify_many(plan.checks(), jobs=jobs, where=parallel, report=report)
    if as_json:
        records = [{"bundle": each.name, **each.parity.to_json()} for each in done]
        click.echo(json.dumps(records if plan.is_of_several else done[0].parity.to_json()))
    else:
        _print_verified(done)
    if not all(verified.parity.passed for verified in done):
        sys.exit(1)


def _print_verified(done: list[Verified]) -> None:
    """One line per verdict, with the bundle's name if there are several."""
    from engines.report import verdict

    for each in done:
        start = f"{each.name}: " if len(done) > 1 else ""
        for sentence in (*each.parity.failures, *each.parity.blocks):
            click.echo(start + sentence)
        click.echo(start + verdict(each.parity))
        if each.page is not None:
            click.echo(f"report: {each.page}")
