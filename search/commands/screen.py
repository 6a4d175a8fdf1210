"""What commands show: progress and tables, without the libraries' own output."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from search.core.progress import status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

__all__ = ["print_tables", "quiet_libraries", "status"]


def print_tables(tables: Iterable[Table], width: int) -> None:
    """A console as wide as the terminal, or `width` columns without one."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else width)
    for table in tables:
        console.print(table)


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
