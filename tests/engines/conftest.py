"""A bundle that is served in several ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def pair(pipelines: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that makes one or two pictures per run, in four steps."""
    from exporter.exporting import export
    from search.methods.options import Options
    from search.methods.registry import search
    from search.model.opening import open_pipeline

    path = pipelines("three-levels")
    subnet = search(open_pipeline(path, weights=False), "full", Options(steps=4))
    out = tmp_path_factory.mktemp("served") / "pair"
    export(path, subnet, out, batches=(1, 2))
    return out
