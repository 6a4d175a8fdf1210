"""Options of the benchmarks that search with few steps and compare on held-out pictures."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_OPTIONS = (
    click.option("--steps", type=int, help="Default: those of trained.py."),
    click.option("--scheduler", help="Default: the one of trained.py."),
    click.option("--pictures", type=int, help="To fit and choose by. Default: carve's."),
    click.option("--iterations", type=int, help="Default: carve's."),
    click.option("--count", default=64, show_default=True, help="Held-out pictures."),
)


def search_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options, in this order."""
    return reduce(lambda made, option: option(made), reversed(_OPTIONS), command)
