"""`stepcarve serve`: bundles behind the OpenAI images API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import cloup

from engines.commands.shared import engine_options
from search.commands import screen, shared
from search.commands.values import ABOVE_0, AT_LEAST_1, PATH, Whole

if TYPE_CHECKING:
    from pathlib import Path

    from engines.base import EngineOptions


@shared.command("serve")
@cloup.argument("bundles", nargs=-1, required=True, metavar="[NAME=]BUNDLE...")
@engine_options()
@shared.option_group(
    "Server",
    cloup.option(
        "--host",
        default="127.0.0.1",
        help="Listen at this address; any but this machine's own takes a token.",
    ),
    cloup.option(
        "--port",
        type=Whole(0, 65535),
        default=8000,
        help="Listen at this port; 0 takes a free one.",
    ),
    cloup.option(
        "--token-file",
        type=PATH,
        help="Answer only requests with the token in this file; the environment variable STEPCARVE_TOKEN does "
        "the same.",
    ),
    cloup.option(
        "--places",
        type=AT_LEAST_1,
        default=16,
        help="Hold this many requests, running ones included; refuse others with status 429.",
    ),
    cloup.option(
        "--time-limit",
        "seconds",
        type=ABOVE_0,
        default=300,
        help="Give a request up after this many seconds.",
    ),
)
@shared.output_options()
def command(
    bundles: tuple[str, ...],
    engine_name: str,
    device: str,
    options: EngineOptions,
    host: str,
    port: int,
    token_file: Path | None,
    places: int,
    seconds: float,
    as_json: bool,
) -> None:
    """Answer the OpenAI images API with bundles, without PyTorch.

    A model has the name of its bundle's folder, or the one before the "=". The first is the default.
    """
    from engines.base import make_engine
    from engines.serve.server import Server, Settings, load, named

    settings = Settings(host, port, places, seconds, _token(token_file))
    found = named(bundles)
    engine = make_engine(engine_name, device, options)
    with screen.status() as report:
        models = load(found, engine, report)

    def started(address: str) -> None:
        names = ", ".join(models)
        told = json.dumps({"address": address, "models": list(models)})
        click.echo(told if as_json else f"{address} serves {names}; stop it with Ctrl-C")

    Server(models, settings, started).run_until_stopped()


def _token(file: Path | None) -> str | None:
    """The token in a file or in the environment."""
    import os

    if file is not None:
        return file.read_text(encoding="utf-8").strip()
    return os.environ.get("STEPCARVE_TOKEN")
