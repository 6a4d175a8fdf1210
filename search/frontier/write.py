"""A frontier as a directory: JSON, CSV, plot, page and every SubNet."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from search.core.files import whole_directory, write_atomically
from search.core.quantisation import SUFFIX
from search.core.versions import environment
from search.frontier.page import page
from search.frontier.plot import draw
from search.frontier.table import as_csv
from search.methods.registry import PACKAGES

if TYPE_CHECKING:
    from pathlib import Path

    from search.frontier.points import Frontier


def write_frontier(frontier: Frontier, out: Path) -> None:
    """Make the directory `out`, atomically.

    Raises:
        SearchError: it exists.
    """
    with whole_directory(out) as folder:
        plot = draw(frontier)
        record = {**frontier.to_json(), "environment": environment(PACKAGES)}
        write_atomically(folder / "frontier.json", json.dumps(record, indent=1) + "\n")
        write_atomically(folder / "frontier.csv", as_csv(frontier))
        write_atomically(folder / "frontier.png", plot)
        write_atomically(folder / "frontier.html", page(frontier, plot))
        for point in frontier.points:
            if point.subnet is not None and point.file is not None:
                file = folder / point.file
                point.subnet.save(file)
                if point.plan is not None:
                    point.plan.save(file.with_suffix(SUFFIX))
