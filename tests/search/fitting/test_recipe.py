"""Our recipe from pipeline to SubNets, and through the whole path."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.base import make_engine
from engines.parity import verify
from exporter.exporting import export
from search.core.actions import Action
from search.core.errors import SearchError
from search.core.subnet import Granularity, SubNet
from search.core.table import keep_of
from search.fitting import recipe, whole_calls
from search.fitting.effort import Effort
from search.fitting.fit import final_latents
from search.fitting.placed import Placed
from search.fitting.recipe import place_calls
from search.fitting.scheduled import scheduled
from search.fitting.thin import Thin
from search.fitting.trajectories import CHUNK, sample_both
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline

EFFORT = Effort(fitted_on=3, held_out=2, iterations=2)
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
    assert [(line["part"], line["iteration"]) for line in lines] == [
        ("calls-5", 1),
        ("calls-5", 2),
        ("calls-2", 1),
        ("calls-2", 2),
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
    with pytest.raises(SearchError, match="holds a search that differs in seed; give"):
        place_calls(
            opened, whole, (0.5,), PROMPTS, effort=EFFORT, folder=folder, resume=True, seed=1
        )


def test_a_search_by_another_cost_is_not_resumed(
    opened: Pipeline, whole: SubNet, found: list[SubNet], folder: Path
) -> None:
    seconds: Any = lambda subnet: keep_of(subnet)
    with pytest.raises(SearchError, match="holds a search that differs in cost; give"):
        place_calls(
            opened, whole, (0.5,), PROMPTS, effort=EFFORT, cost=seconds, folder=folder, resume=True
        )


def test_another_granularity_is_not_resumed(
    opened: Pipeline, whole: SubNet, found: list[SubNet], folder: Path
) -> None:
    other = full(opened, Options(steps=10, guidance=4, granularity=Granularity.LAYER))
    assert other.timesteps == whole.timesteps
    with pytest.raises(SearchError, match="holds a search that differs in blocks; give"):
        place_calls(opened, other, (0.5,), PROMPTS, effort=EFFORT, folder=folder, resume=True)


def test_few_calls_see_more_pictures(
    opened: Pipeline, whole: SubNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def stage(*args: Any, **_: Any) -> Placed:
        start: Placed = args[2]
        seen[len(start.positions)] = args[3].batch
        return start

    monkeypatch.setattr(whole_calls, "refine", stage)
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
    monkeypatch.setattr(whole_calls, "refine", stage)
    place_calls(opened, whole, (0.5,), PROMPTS, effort=EFFORT)
    assert (began == [error]) is (error == 0)


def test_a_single_call_has_nothing_to_place(
    opened: Pipeline, whole: SubNet, tmp_path: Path
) -> None:
    place_calls(
        opened, whole, (0.1,), PROMPTS, effort=replace(EFFORT, iterations=4), folder=tmp_path
    )
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [*range(1, len(lines) + 1)]
    assert 1 <= len(lines) <= 4


NEARLY_THREE = 0.28
"""Of 10 calls: two whole ones, or three with few blocks left out."""


@pytest.fixture(scope="module")
def layers(opened: Pipeline) -> SubNet:
    return full(opened, Options(steps=10, guidance=4, granularity=Granularity.LAYER))


def test_three_thin_calls_are_better_than_two_whole_ones(opened: Pipeline, layers: SubNet) -> None:
    found, whole = (
        place_calls(
            opened, layers, (NEARLY_THREE,), PROMPTS, effort=EFFORT, thin=thin
        )[0]
        for thin in (True, False)
    )  # fmt: skip
    assert (found.steps, whole.steps) == (3, 2)
    assert 0.2 < keep_of(found) <= NEARLY_THREE
    assert any(action is not Action.RUN for row in found.actions for action in row)
    runs = sample_both(
        opened, layers, PROMPTS, fitted_on=1, held_out=4, reference_steps=None, seed=7,
        report=lambda *_: None,
    )[1]  # fmt: skip

    def error(subnet: SubNet) -> float:
        assert subnet.fitted is not None
        made = final_latents(opened, subnet, subnet.fitted.table, runs)
        return float(runs.error(made).mean())

    assert error(found) < error(whole), "on pictures it has never seen"


def test_thin_calls_that_are_no_better_are_not_taken(
    opened: Pipeline, layers: SubNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse: Any = lambda *_: Thin(layers, 1e6)
    monkeypatch.setattr(recipe, "thin_calls", worse)
    found = place_calls(opened, layers, (NEARLY_THREE,), PROMPTS, effort=EFFORT)[0]
    assert found.actions == layers.actions[:2]


def test_thin_calls_are_made_within_the_cost_that_was_asked_for(
    opened: Pipeline, layers: SubNet
) -> None:
    asked: list[SubNet] = []

    def seconds(subnet: SubNet) -> float:
        asked.append(subnet)
        return (subnet.steps / subnet.full_calls + keep_of(subnet)) / 2

    effort = replace(EFFORT, iterations=1)
    found = place_calls(opened, layers, (NEARLY_THREE,), PROMPTS, effort=effort, cost=seconds)[0]
    assert asked, "thin calls were tried"
    assert seconds(found) <= NEARLY_THREE
    assert keep_of(asked[-2]) < NEARLY_THREE, "seconds shrink less than MACs"


@pytest.mark.parametrize("keep", [0.2, 0.25, 1.0])
def test_thin_calls_are_not_tried_where_much_would_be_left_out(
    opened: Pipeline, layers: SubNet, monkeypatch: pytest.MonkeyPatch, keep: float
) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("not to be called")

    monkeypatch.setattr(recipe, "thin_calls", refused)
    place_calls(opened, layers, (keep,), PROMPTS, effort=replace(EFFORT, iterations=1))


@pytest.mark.slow
def test_thin_calls_pass_through_the_whole_path(
    pipelines: Callable[[str], Path], opened: Pipeline, layers: SubNet, tmp_path: Path
) -> None:
    found = place_calls(opened, layers, (NEARLY_THREE,), PROMPTS, effort=EFFORT)[0]
    bundle = export(pipelines("three-levels"), found, tmp_path / "bundle")
    engine = make_engine("onnxruntime", "cpu")
    parity, _ = verify(bundle, [engine], pipelines("three-levels"), prompt="a red cross")
    assert parity.passed, parity.failures


def test_less_than_a_call_is_refused(opened: Pipeline, whole: SubNet) -> None:
    with pytest.raises(SearchError, match=r"--keep 0\.05 of 10 calls is less than one call"):
        place_calls(opened, whole, (0.05,), PROMPTS, effort=EFFORT)
