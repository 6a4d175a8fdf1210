"""Fixtures: the shipped pipelines, random ones of other shapes, and bundles made from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from tests.command_line import Places


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is marked
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases that were measured to take long."""
    from tests.processor_seconds import LISTS

    for each in LISTS:
        listed = each.read()
        for item in items:
            if item.nodeid in listed:
                item.add_marker(each.mark)


SHAPES = Path(__file__).parent.parent / "examples" / "shapes"


@pytest.fixture(scope="session", autouse=True)
def trace_once() -> Iterator[None]:
    """Searches in all tests share the traces they read topologies off, and exports theirs."""
    from unittest import mock

    from search.model import trace as module
    from tests.traces import traced_once

    traced: dict[tuple[object, ...], Trace] = {}
    original = module.trace

    def trace(
        pipeline: Pipeline, granularity: Granularity, request: Request, **options: Any
    ) -> Trace:
        size = (request.height, request.width, len(request.prompts))
        whose = (pipeline.path, pipeline.fingerprint, bool(pipeline._split))
        of = (*whose, granularity, request.guidance > 1)
        key = (*of, *size, repr(options))
        if key not in traced:
            traced[key] = original(pipeline, granularity, request, **options)
        return traced[key]

    with mock.patch.object(module, "trace", trace), traced_once():
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
    from exporter.exporting import export

    made: dict[tuple[str, SubNet], Bundle] = {}

    def make(name: str, subnet: SubNet) -> Bundle:
        key = (name, subnet)
        if key not in made:
            out = tmp_path_factory.mktemp("bundles") / "bundle"
            made[key] = export(pipelines(name), subnet, out)
        return made[key]

    return make


@pytest.fixture(scope="session")
def made(pipelines: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `bundle.json` and `bundle` of a small pipeline, and `dit.json` and `dit` of another."""
    from tests.command_line import ok

    root = tmp_path_factory.mktemp("made")
    for name, out in (("three-levels", "bundle"), ("shapes-dit", "dit")):
        subnet = root / f"{out}.json"
        ok("search", pipelines(name), "-o", subnet, "--method", "random", "--steps", 8)
        ok("export", pipelines(name), subnet, "-o", root / out)
    return root


@pytest.fixture(scope="session")
def variants(
    pipelines: Callable[[str], Path], made: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The SubNet of `made / "bundle"` at its own size and a smaller one, three images each."""
    import json

    from tests.command_line import ok

    bundle = tmp_path_factory.mktemp("variants") / "bundle"
    printed = ok(
        "export", pipelines("three-levels"), made / "bundle.json", "-o", bundle,
        "--size", "24x24", "--size", "16x24", "--batch", 3, "--json",
    )  # fmt: skip
    assert json.loads(printed)["variants"] == [
        {"height": 24, "width": 24, "images": 3},
        {"height": 16, "width": 24, "images": 3},
    ]
    return bundle


@pytest.fixture(scope="session")
def broken(
    pipelines: Callable[[str], Path], made: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with `truncated`, a pipeline, and `changed`, a bundle, whose weights are damaged."""
    import shutil

    root = tmp_path_factory.mktemp("broken")
    truncated = shutil.copytree(pipelines("three-levels"), root / "truncated")
    weights = truncated / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    changed = shutil.copytree(made / "bundle", root / "changed")
    with (changed / "weights.bin").open("r+b") as file:
        file.write(b"\1\2\3")
    return root


@pytest.fixture
def bad_places(
    pipelines: Callable[[str], Path], made: Path, broken: Path, tmp_path: Path
) -> Places:
    """Bad and good files and folders that a line of a command may name."""
    from tests.command_line import Places

    (tmp_path / "notes.txt").write_text("not a SubNet")
    (tmp_path / "notes.npy").write_text("not numbers")
    (tmp_path / "empty.npy").touch()
    return Places(
        tmp_path,
        {
            "no": tmp_path / "nowhere",
            "tmp": tmp_path,
            "out": tmp_path / "out",
            "sd": pipelines("three-levels"),
            "dit": pipelines("learned-variance"),
            "subnet": made / "bundle.json",
            "bundle": made / "bundle",
            "classes": made / "dit",
            "truncated": broken / "truncated",
            "changed": broken / "changed",
        },
    )
