"""Files and directories appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from search.core.errors import SearchError
from search.core.files import require_pipeline, whole_directory


def test_a_directory_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with whole_directory(out) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a.txt").write_text("a")
        assert not out.exists()
    assert (out / "inner" / "a.txt").read_text() == "a"
    assert [each.name for each in out.parent.iterdir()] == ["out"]


def test_a_directory_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def stopped() -> None:
        with whole_directory(tmp_path / "out") as folder:
            (folder / "a.txt").write_text("a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not list(tmp_path.iterdir())


def test_a_directory_is_on_disk_before_it_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "out", list[tuple[str, bool]]()

    def fsync(handle: int) -> None:
        seen.append((Path(f"/proc/self/fd/{handle}").readlink().name, out.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with whole_directory(out) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a.txt").write_text("a")
    assert set(seen[:-1]) == {("inner", False), ("a.txt", False), (folder.name, False)}
    assert seen[-1] == (tmp_path.name, True)


def test_an_existing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="exists; remove it or choose another name"):
        whole_directory(tmp_path).__enter__()


def test_a_modular_pipeline_is_told_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "modular_model_index.json").write_text("{}")
    with pytest.raises(SearchError, match=r"is a modular diffusers pipeline .* cannot be read yet"):
        require_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    assert require_pipeline(tmp_path).name == "model_index.json"
