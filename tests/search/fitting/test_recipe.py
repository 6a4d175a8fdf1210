"""Our recipe from pipeline to SubNets, and through the whole path."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.base import make_engine
from engines.parity import verify
from exporter.exporting import export
from search.core.errors import SearchError
from search.core.subnet import Granularity, SubNet
from search.core.table import keep_of
from search.fitting import recipe
from search.fitting.placed import Placed
from search.fitting.recipe import Effort, place_calls
from search.fitting.scheduled import scheduled
from search.fitting.trajectories import CHUNK
from search.methods.options import Options
from search.methods.whole import full
from search.model.pipeline import Pipeline, open_pipeline

EFFORT = Effort(fitted_on=3, held_out=2, iterations=2, every=1)
PROMPTS = ("a red cross", "a blue circle")


@pytest.fixture(scope="module")
def opened(pipelines: Callable[[str], Path]) -> Pipeline:
    return open_pipeline(pipelines("three-levels"))


@pytest.fixture(scope="module")
def whole(opened: Pipeline) -> SubNet:
    return full(opened, Options(steps=10, guidance=4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def found(opened: Pipeline, whole: SubNet, folder: Path) -> list[SubNet]:
    return place_calls(opened, whole, (0.5, 0.25), PROMPTS, effort=EFFORT, folder=folder)


def test_each_keep_is_met_and_never_exceeded(found: list[SubNet]) -> None:
    assert [keep_of(subnet) for subnet in found] == [0.5, 0.2]
    assert [subnet.method for subnet in found] == ["carve keep 0.5", "carve keep 0.25"]


@pytest.mark.slow
def test_they_pass_through_the_whole_path(
    pipelines: Callable[[str], Path], found: list[SubNet], tmp_path: Path
) -> None:
    bundle = export(pipelines("three-levels"), found[1], tmp_path / "bundle")
    assert len(bundle.calls) == 2
    engine = make_engine("onnxruntime", "cpu")
    parity, _ = verify(bundle, [engine], pipelines("three-levels"), prompt="a red cross")
    assert parity.passed, parity.failures


def test_the_same_seed_finds_the_same(opened: Pipeline, whole: SubNet, found: list[SubNet]) -> None:
    assert place_calls(opened, whole, (0.25,), PROMPTS, effort=EFFORT) == found[1:]


def test_the_run_is_logged_drawn_and_resumed(
    opened: Pipeline, whole: SubNet, found: list[SubNet], folder: Path
) -> None:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [(line["calls"], line["iteration"]) for line in lines] == [
        (2, 1),
        (2, 2),
        (5, 1),
        (5, 2),
    ]
    assert (folder / "run.png").read_bytes().startswith(b"\x89PNG")
    again = place_calls(
        opened, whole, (0.5, 0.25), PROMPTS, effort=EFFORT, folder=folder, resume=True
    )
    assert again == found
    assert len((folder / "log.jsonl").read_text().splitlines()) == 4, "nothing was computed again"


def test_another_search_is_not_resumed(
    opened: Pipeline, whole: SubNet, found: list[SubNet], folder: Path
) -> None:
    with pytest.raises(SearchError, match="holds a search with another seed; give"):
        place_calls(
            opened, whole, (0.5,), PROMPTS, effort=EFFORT, folder=folder, resume=True, seed=1
        )


def test_another_granularity_is_not_resumed(
    opened: Pipeline, whole: SubNet, found: list[SubNet], folder: Path
) -> None:
    other = full(opened, Options(steps=10, guidance=4, granularity=Granularity.LAYER))
    assert other.timesteps == whole.timesteps
    with pytest.raises(SearchError, match="holds a search with another blocks; give"):
        place_calls(opened, other, (0.5,), PROMPTS, effort=EFFORT, folder=folder, resume=True)


def test_few_calls_see_more_pictures(
    opened: Pipeline, whole: SubNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def stage(*args: Any, **_: Any) -> Placed:
        start: Placed = args[2]
        seen[len(start.positions)] = args[3].batch
        return start

    monkeypatch.setattr(recipe, "refine_positions", stage)
    monkeypatch.setattr(recipe, "refine_coefficients", stage)
    effort = replace(EFFORT, work=60)
    place_calls(opened, whole, (1.0, 0.5, 0.2), PROMPTS, effort=effort)
    assert seen == {10: CHUNK, 5: 12, 2: 30}


@pytest.mark.parametrize("error", [0.0, 1e6])
def test_the_schedulers_own_steps_are_refined_where_they_are_better(
    opened: Pipeline, whole: SubNet, monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    began = []

    def plain(*args: Any, **runs: Any) -> Placed:
        return replace(scheduled(*args, **runs), error=error)

    def stage(*args: Any, **_: Any) -> Placed:
        began.append(args[2].error)
        return args[2]

    monkeypatch.setattr(recipe, "scheduled", plain)
    monkeypatch.setattr(recipe, "refine_coefficients", stage)
    place_calls(opened, whole, (0.5,), PROMPTS, effort=EFFORT)
    assert (began == [error]) is (error == 0)


def test_even_calls_are_those_of_a_scheduler_with_fewer_steps() -> None:
    assert recipe._spaced(7, 5, 1.0) == pytest.approx([0, 1.6, 3.2, 4.8, 6.4])
    assert recipe._spaced(7, 8, 1.0) == pytest.approx(range(8))
    assert recipe._spaced(0, 1, 1.0) == [0]


@pytest.mark.parametrize("count", range(1, 12))
def test_spaced_calls_rise_and_stay_within_the_trajectory(count: int) -> None:
    places = recipe._spaced(7, count, 0.8)
    assert places[0] == 0
    assert places[-1] <= 7
    assert all(a < b for a, b in itertools.pairwise(places))


def test_a_single_call_has_nothing_to_place(
    opened: Pipeline, whole: SubNet, tmp_path: Path
) -> None:
    place_calls(
        opened, whole, (0.1,), PROMPTS, effort=replace(EFFORT, iterations=4), folder=tmp_path
    )
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 2, 3, 4]


def test_less_than_a_call_is_refused(opened: Pipeline, whole: SubNet) -> None:
    with pytest.raises(SearchError, match=r"--keep 0\.05 of 10 calls is less than one call"):
        place_calls(opened, whole, (0.05,), PROMPTS, effort=EFFORT)
