"""`stepcarve demo`: the whole path on a shipped pipeline."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import cloup

from engines.demo.example import EXAMPLES
from search.commands import screen, shared
from search.commands.values import PATH


@shared.command("demo")
@cloup.option_group(
    "What to show",
    cloup.option(
        "--example",
        "name",
        type=click.Choice([each.name for each in EXAMPLES]),
        default=EXAMPLES[0].name,
        help="Show this pipeline.",
    ),
)
@shared.output_options(
    cloup.option(
        "-o",
        "--out",
        type=PATH,
        default=Path("demo"),
        help="Write everything to this new directory.",
    )
)
def command(name: str, out: Path, as_json: bool) -> None:
    """Search, export, run and verify a shipped pipeline."""
    screen.quiet_libraries()
    from engines.demo.run import run_demo
    from engines.report import verdict

    example = next(each for each in EXAMPLES if each.name == name)
    with screen.status() as report:
        result = run_demo(out, report, example=example)
    if as_json:
        click.echo((out / "demo.json").read_text(), nl=False)
    else:
        screen.print_tables([result.table()], 130)
        click.echo(verdict(result.parity))
        click.echo(f"page: {result.page}")
    if not result.parity.passed:
        sys.exit(1)
