"""A frontier as a directory: JSON, CSV, plot, page and every SubNet."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from search.errors import SearchError
from search.files import write_atomically
from search.frontier.page import page
from search.frontier.plot import draw
from search.frontier.table import as_csv

if TYPE_CHECKING:
    from search.frontier.points import Frontier


def require_free(out: Path) -> None:
    """Refuse a directory that exists."""
    if out.exists():
        msg = f"{str(out)!r} exists; remove it or choose another name"
        raise SearchError(msg)


def write_frontier(frontier: Frontier, out: Path) -> None:
    """Make the directory `out`, whole or not at all.

    Raises:
        SearchError: it exists.
    """
    require_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        plot = draw(frontier)
        write_atomically(folder / "frontier.json", json.dumps(frontier.to_json(), indent=1) + "\n")
        write_atomically(folder / "frontier.csv", as_csv(frontier))
        write_atomically(folder / "frontier.png", plot)
        write_atomically(folder / "frontier.html", page(frontier, plot))
        for point in frontier.points:
            point.subnet.save(folder / point.file)
        folder.chmod(0o755)
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
