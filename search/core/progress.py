"""Messages of long work, shown where somebody sees them."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
