"""Fixtures: the shipped pipelines, random ones of other shapes, and bundles made from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
# Two workers share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

if TYPE_CHECKING:
    from exporter.bundle import Bundle
    from search.core.subnet import Granularity, SubNet
    from search.model.family import Request
    from search.model.pipeline import Pipeline
    from search.model.trace import Trace

SHAPES = Path(__file__).parent.parent / "examples" / "shapes"


@pytest.fixture(scope="session", autouse=True)
def trace_once() -> Iterator[None]:
    """Searches in all tests share the traces they read topologies off; tracing has tests of its own."""
    from unittest import mock

    import exporter.export  # noqa: F401 - exports trace for themselves
    from search.model import trace as module

    traced: dict[tuple[object, ...], Trace] = {}
    original = module.trace

    def trace(pipeline: Pipeline, granularity: Granularity, request: Request) -> Trace:
        size = (request.height, request.width, len(request.prompts))
        key = (pipeline.path, pipeline.fingerprint, granularity, request.guidance > 1, *size)
        if key not in traced:
            traced[key] = original(pipeline, granularity, request)
        return traced[key]

    with mock.patch.object(module, "trace", trace):
        yield


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Directory of a pipeline by name: a shipped one, or one of `tests.pipelines.RANDOM`."""
    from tests.pipelines import RANDOM

    root = tmp_path_factory.mktemp("pipelines")

    def find(name: str) -> Path:
        if name in ("shapes-sd", "shapes-dit"):
            return SHAPES / name
        path = root / name
        if not path.exists():
            RANDOM[name]().save_pretrained(path)
        return path

    return find


@pytest.fixture(scope="session")
def make_bundle(
    pipelines: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, SubNet], Bundle]:
    """Export a SubNet of a named pipeline; equal requests share one bundle."""
    from exporter.export import export

    made: dict[tuple[str, SubNet], Bundle] = {}

    def make(name: str, subnet: SubNet) -> Bundle:
        key = (name, subnet)
        if key not in made:
            out = tmp_path_factory.mktemp("bundles") / "bundle"
            made[key] = export(pipelines(name), subnet, out)
        return made[key]

    return make
