"""`stepcarve demo`: the whole path on a shipped pipeline."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import cloup

from search.commands import screen, shared
from search.commands.values import PATH


@shared.command("demo")
@shared.output_options(
    cloup.option(
        "-o",
        "--out",
        type=PATH,
        default=Path("demo"),
        help="Write everything to this new directory.",
    )
)
def command(out: Path, as_json: bool) -> None:
    """Search, export, run and verify the shipped pipeline."""
    screen.quiet_libraries()
    from engines.demo.run import run_demo
    from engines.report import verdict

    with screen.status() as report:
        result = run_demo(out, report)
    if as_json:
        click.echo((out / "demo.json").read_text(), nl=False)
    else:
        screen.print_tables([result.table()], 130)
        click.echo(verdict(result.parity))
        click.echo(f"report: {result.page}")
    if not result.parity.passed:
        sys.exit(1)
