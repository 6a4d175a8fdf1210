"""The folder of a run: whose it is, and what a killed run leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from engines.errors import EngineError
from engines.optimize.folder import OptimizeFolder
from engines.optimize.settings import Goal, OptimizeSettings, tier_named
from search.methods.options import Options

SETTINGS = OptimizeSettings(pipeline=Path("models/mine"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pipeline": Path("models/other")}, "pipeline"),
        ({"goal": Goal(speedup=3)}, "goal"),
        ({"tier": tier_named("best")}, "quality"),
        ({"method": "dip-go"}, "method"),
        ({"dtypes": ("float32", "float16")}, "dtypes"),
        ({"engines": ("openvino",)}, "engines"),
        ({"precisions": ("int8",)}, "precisions"),
        ({"options": Options(prompts=("a red cross",), seed=1)}, "prompts, seed"),
    ],
)
def test_the_folder_of_other_settings_is_refused(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    folder = OptimizeFolder(tmp_path / "out")
    with folder.claimed(SETTINGS):
        pass
    before = (tmp_path / "out" / "settings.json").read_bytes()
    message = f"holds a run that differs in {named}; give the same options"
    with pytest.raises(EngineError, match=message), folder.claimed(replace(SETTINGS, **change)):
        pass
    assert (tmp_path / "out" / "settings.json").read_bytes() == before
    with folder.claimed(SETTINGS):
        pass


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    refused = pytest.raises(EngineError, match="was not made by optimize")
    with refused, OptimizeFolder(tmp_path).claimed(SETTINGS):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    refused = pytest.raises(EngineError, match="another run is using")
    with FileLock(tmp_path / ".lock"), refused, OptimizeFolder(tmp_path).claimed(SETTINGS):
        pass


def test_what_a_killed_run_was_writing_is_removed_but_for_half_a_bundle(tmp_path: Path) -> None:
    folder = OptimizeFolder(tmp_path)
    with folder.claimed(SETTINGS):
        pass
    (tmp_path / ".quality.x1").mkdir()
    (tmp_path / ".quality.x1" / "plot.png").touch()
    (tmp_path / "bench" / ".float32.x2").mkdir(parents=True)
    (tmp_path / "search" / "keep-0.3").mkdir(parents=True)
    (tmp_path / "search" / "keep-0.3" / ".log.jsonl.x3").touch()
    (tmp_path / "search" / "keep-0.3" / "log.jsonl").touch()
    half = tmp_path / "bundles" / ".float32.partial"
    half.mkdir(parents=True)
    (half / "step-0.onnx").touch()
    with folder.claimed(SETTINGS):
        left = {
            path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()
        }
    assert left == {
        ".lock", "settings.json", "search/keep-0.3/log.jsonl", "bundles/.float32.partial/step-0.onnx",
    }  # fmt: skip


def test_the_time_of_each_stage_is_kept(tmp_path: Path) -> None:
    folder = OptimizeFolder(tmp_path)
    for stage in ("search", "compare"):
        with folder.timed(stage):
            pass
    assert list(folder.times()) == ["search", "compare"]
    assert all(spent["seconds"] >= 0 for spent in folder.times().values())
