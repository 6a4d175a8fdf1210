"""What commands show: progress and tables, without the libraries' own output."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.table import Table


def print_tables(tables: Iterable[Table], width: int) -> None:
    """A console as wide as the terminal, or `width` columns without one."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else width)
    for table in tables:
        console.print(table)


@contextmanager
def status() -> Iterator[Callable[..., None]]:
    """Progress messages: on terminals with a bar, on stderr; in notebooks as a line. Elsewhere nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if console.is_jupyter:
        with _line() as report:
            yield report
        return
    if not console.is_terminal:
        yield lambda _text, _share=None: None
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("start", total=None)
        yield lambda text, share=None: progress.update(
            task, description=text, total=None if share is None else 1, completed=share or 0
        )


@contextmanager
def _line() -> Iterator[Callable[..., None]]:
    """A line that each message overwrites, and that goes at the end; a notebook needs no widgets for it."""
    shown = ""

    def show(text: str) -> None:
        nonlocal shown
        sys.stdout.write(f"\r{text:<{len(shown)}}")
        sys.stdout.flush()
        shown = text

    try:
        yield lambda text, share=None: show(text if share is None else f"{text} ({share:.0%})")
    finally:
        sys.stdout.write(f"\r{'':<{len(shown)}}\r")


def quiet_libraries() -> None:
    """Silence the libraries' progress bars and notices, and forbid them the network."""
    import logging
    import os
    import warnings

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "critical")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.simplefilter("ignore")
    for name in ("torch.onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
