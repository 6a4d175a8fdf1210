"""The order of the stages and what a second run does, with stages that are made up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines.optimize import run as module
from engines.optimize.run import STAGES, Run, Stage, optimize
from engines.optimize.settings import OptimizeSettings

SETTINGS = OptimizeSettings(pipeline=Path("mine"))
NAMES = ("first", "second", "third")


class _KilledError(BaseException):
    """Ends a run as a kill does."""


def pretend(
    monkeypatch: pytest.MonkeyPatch, out: Path, made: list[str], killed_in: str = ""
) -> None:
    """Stages that write a file of their name, and are killed before one of them has."""

    def make(name: str, run: Run) -> None:
        if name == killed_in:
            raise _KilledError
        made.append(name)
        (out / name).write_text(json.dumps({"last": name}))
        run.folder.result.write_text(json.dumps({"last": name}))

    def stage(name: str) -> Stage:
        return Stage(name, lambda _: [out / name], lambda run: make(name, run))

    monkeypatch.setattr(module, "STAGES", tuple(map(stage, NAMES)))


@pytest.mark.parametrize("killed_in", NAMES)
def test_a_killed_run_goes_on_at_the_stage_that_was_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    out, made = tmp_path / "out", list[str]()
    pretend(monkeypatch, out, made, killed_in)
    with pytest.raises(_KilledError):
        optimize(SETTINGS, out)
    assert made == list(NAMES[: NAMES.index(killed_in)])
    pretend(monkeypatch, out, made)
    assert optimize(SETTINGS, out) == {"last": "third"}
    assert made == list(NAMES), "no stage was made twice"
    assert optimize(SETTINGS, out) == {"last": "third"}
    assert made == list(NAMES), "a third run makes nothing"


def test_the_stages_are_those_of_the_commands_in_their_order() -> None:
    names = [stage.name for stage in STAGES]
    assert names == ["search", "quantise", "compare", "export", "build", "verify", "bench", "page"]
