"""What an export says it needs, and when it refuses."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter import preflight
from exporter.errors import ExportError
from exporter.exporting import export
from search.methods.options import Options
from search.methods.whole import full
from search.model import parts
from search.model.opening import open_pipeline

Memory = namedtuple("Memory", "available")
Disk = namedtuple("Disk", "free")


def give(monkeypatch: pytest.MonkeyPatch, memory: int, disk: int) -> None:
    monkeypatch.setattr(preflight.psutil, "virtual_memory", lambda: Memory(memory))
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: Disk(disk))


def test_float16_halves_the_denoiser_alone(pipelines: Callable[[str], Path]) -> None:
    pipeline = open_pipeline(pipelines("shapes-dit"), weights=False)
    params = sum(p.numel() for p in pipeline.denoiser.parameters())
    single, half = (preflight.needs_of(pipeline, dtype) for dtype in ("float32", "float16"))
    assert single.disk - half.disk == 2 * params
    files = sum(f.stat().st_size for f in pipelines("shapes-dit").rglob("*.safetensors"))
    assert single.disk == pytest.approx(files, rel=0.01)


@pytest.mark.parametrize(
    ("memory", "disk", "message"),
    [
        (10**8, 10**12, "GB of memory, but only 0.1 GB is free"),
        (10**12, 10**6, "GB of disk at '.*', but"),
    ],
)
def test_too_little_room_is_refused(
    pipelines: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    memory: int,
    disk: int,
    message: str,
) -> None:
    pipeline = open_pipeline(pipelines("shapes-dit"), weights=False)
    give(monkeypatch, memory, disk)
    with pytest.raises(ExportError, match=message):
        preflight.require_room(pipeline, tmp_path / "not" / "there" / "yet", "float32")
    give(monkeypatch, 10**12, 10**12)
    assert "GB of memory" in preflight.require_room(pipeline, tmp_path / "bundle", "float32")


def test_each_variant_needs_memory_for_its_graphs(pipelines: Callable[[str], Path]) -> None:
    pipeline = open_pipeline(pipelines("shapes-dit"), weights=False)
    one, three = (preflight.needs_of(pipeline, "float32", count) for count in (1, 3))
    assert three.memory - one.memory == 2 * preflight.VARIANT_MEMORY
    assert three.disk == one.disk


def test_room_is_asked_for_before_anything_is_loaded(
    pipelines: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subnet = full(open_pipeline(pipelines("sd3"), weights=False), Options(steps=2))
    monkeypatch.setattr(parts, "_model", lambda *_: pytest.fail("weights were loaded"))
    give(monkeypatch, 10**6, 10**12)
    with pytest.raises(ExportError, match=r"about 1\.5 GB of memory, but"):
        export(pipelines("sd3"), subnet, tmp_path / "bundle")
