"""Run folders of trainings: what comes back of a checkpoint, and which are refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from search.core.errors import SearchError
from search.runs.checkpoints import CHECKPOINT, LOG, Checkpoint, CheckpointFolder

IDENTITY = {"seed": 0, "prompts": ("a cross",)}


@dataclass(frozen=True)
class Entry:
    iteration: int
    loss: float


class Folder(CheckpointFolder[Entry]):
    what = "dream"
    entry = Entry
    states = ("model", "optimizer")
    picture = "dream.png"

    def draw(self, figure: Figure, done: Sequence[Entry]) -> None:
        figure.suptitle(f"{len(done)} dreams")


@pytest.fixture
def saved(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    states = {"model": {"weight": torch.arange(3.0)}, "optimizer": {"lr": 0.1}}
    folder.save(Checkpoint(IDENTITY, states, (Entry(0, 0.5), Entry(1, 0.25))))
    return folder


def rewrite(folder: Folder, **change: Any) -> None:
    content = torch.load(folder.path / CHECKPOINT, weights_only=True)
    torch.save({**content, **change}, folder.path / CHECKPOINT)


def test_a_checkpoint_comes_back(saved: Folder) -> None:
    found = saved.load(resume=True)
    assert found is not None
    assert found.done == (Entry(0, 0.5), Entry(1, 0.25))
    assert torch.equal(found.states["model"]["weight"], torch.arange(3.0))
    assert found.states["optimizer"] == {"lr": 0.1}
    assert (saved.path / "dream.png").read_bytes().startswith(b"\x89PNG")


def test_the_file_has_the_states_by_their_names(saved: Folder) -> None:
    content = torch.load(saved.path / CHECKPOINT, weights_only=True)
    assert list(content) == ["schema", "identity", "model", "optimizer", "done"]


def test_there_may_be_no_checkpoint(tmp_path: Path) -> None:
    assert Folder(tmp_path).load(resume=True) is None


def test_a_run_is_not_begun_over_another(saved: Folder) -> None:
    with pytest.raises(
        SearchError, match="holds a dream already; give --resume to continue it, or"
    ):
        saved.load(resume=False)
    assert Folder(saved.path / "new").load(resume=False) is None


def test_a_run_that_was_stopped_before_its_first_checkpoint_is_kept_too(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.start([])
    folder.log(Entry(0, 0.5))
    with pytest.raises(SearchError, match="holds a dream already"):
        folder.load(resume=False)
    assert folder.load(resume=True) is None


def test_the_log_begins_with_what_is_done(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.log(Entry(7, 0.0))
    folder.start([Entry(0, 0.5)])
    folder.log(Entry(1, 0.25))
    lines = (tmp_path / LOG).read_text().splitlines()
    assert lines == ['{"iteration": 0, "loss": 0.5}', '{"iteration": 1, "loss": 0.25}']


def test_another_run_is_refused_by_what_differs(saved: Folder) -> None:
    found = saved.load(resume=True)
    assert found is not None
    saved.require_same(found, {"seed": 0})
    with pytest.raises(
        SearchError, match="is of a dream that differs in prompts and seed; use the"
    ):
        saved.require_same(found, {"seed": 1, "prompts": ("a circle",)})


def test_another_schema_is_refused(saved: Folder) -> None:
    rewrite(saved, schema=2)
    with pytest.raises(SearchError, match=r"cannot read .* \(it has schema 2, expected 1\); give"):
        saved.load(resume=True)


@pytest.mark.parametrize("change", [{"done": [(0,)]}, {"done": 3}, {"identity": "{"}])
def test_a_garbled_checkpoint_is_refused(saved: Folder, change: dict[str, Any]) -> None:
    rewrite(saved, **change)
    with pytest.raises(SearchError, match=r"cannot read the checkpoint .*give another"):
        saved.load(resume=True)


def test_a_checkpoint_without_a_state_is_refused(saved: Folder) -> None:
    content = torch.load(saved.path / CHECKPOINT, weights_only=True)
    del content["model"]
    torch.save(content, saved.path / CHECKPOINT)
    with pytest.raises(SearchError, match=r"cannot read the checkpoint .*\('model'\)"):
        saved.load(resume=True)


@pytest.mark.parametrize("left", [0, 7, -500])
def test_a_checkpoint_that_was_cut_off_is_refused(saved: Folder, left: int) -> None:
    file = saved.path / CHECKPOINT
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(SearchError, match=r"cannot read the checkpoint .*give another"):
        saved.load(resume=True)


class Planted:
    """Pickled, it would run code when it is read."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("true",)


def test_a_checkpoint_that_would_run_code_is_refused(saved: Folder) -> None:
    rewrite(saved, model=Planted())
    with pytest.raises(SearchError, match=r"cannot read the checkpoint"):
        saved.load(resume=True)
