"""`stepcarve serve`: bundles behind the OpenAI images API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import cloup

from engines.commands.shared import engine_options
from search.commands import screen, shared
from search.commands.values import ABOVE_0, AT_LEAST_1, PATH, Whole
from search.runs.parallel import Where

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engines.base import EngineOptions
    from engines.serve.served import Runs
    from exporter.bundle import Bundle


@shared.command("serve")
@cloup.argument("bundles", nargs=-1, required=True, metavar="[NAME=]BUNDLE...")
@engine_options()
@shared.option_group(
    "Server",
    cloup.option(
        "--host",
        default="127.0.0.1",
        help="Listen on this address; any but a loopback address needs a token.",
    ),
    cloup.option(
        "--port",
        type=Whole(0, 65535),
        default=8000,
        help="Listen on this port; 0 picks a free one.",
    ),
    cloup.option(
        "--token-file",
        type=PATH,
        help="Answer only requests that carry the token in this file; without the option, the environment "
        "variable STEPCARVE_TOKEN holds it.",
    ),
    cloup.option(
        "--places",
        type=AT_LEAST_1,
        default=16,
        help="Hold this many requests at once, running ones included; refuse others with status 429.",
    ),
    cloup.option(
        "--time-limit",
        "seconds",
        type=ABOVE_0,
        default=300,
        help="Give up a request after this many seconds.",
    ),
    cloup.option(
        "--parallel",
        type=click.Choice([Where.LOCAL.value, Where.RAY.value]),
        default=Where.LOCAL.value,
        help="Run in this process, or in replicas on a Ray cluster.",
    ),
    cloup.option(
        "--replicas",
        type=AT_LEAST_1,
        default=1,
        help="With --parallel ray, load the bundles this many times, each in its own process.",
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
    parallel: str,
    replicas: int,
    as_json: bool,
) -> None:
    """Serve bundles over the OpenAI images API, without PyTorch.

    A model is called NAME, or else as its bundle's directory. The first is the default.
    """
    from contextlib import ExitStack

    from engines.serve.replicas import EngineAsked, replicated
    from engines.serve.server import Server, Settings, load, named

    if parallel != Where.RAY:
        shared.refuse_unused(shared.given_options(), {"replicas": "with --parallel ray"})
    settings = Settings(host, port, places, seconds, _token(token_file), replicas)
    found = named(bundles)
    asked = EngineAsked(engine_name, device, options)
    with ExitStack() as stack:
        with screen.status() as report:
            runner_of: Callable[[Bundle], Runs]
            if parallel == Where.RAY:
                loading = replicated(list(found.values()), asked, replicas, report)
                runner_of = stack.enter_context(loading)
            else:
                runner_of = asked.runner_of()
            models = load(found, runner_of, report)

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
