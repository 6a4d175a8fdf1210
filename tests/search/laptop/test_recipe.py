"""The whole search for layers on a random U-Net: files, resuming, workers, criteria."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EDMEulerScheduler

from search.core.blocks import skipped
from search.core.errors import SearchError
from search.core.subnet import Granularity, SubNet
from search.laptop import probe, recipe
from search.laptop.layers import Layers, layers_of, params_of
from search.laptop.loss import OutputLoss, PictureLoss
from search.laptop.noising import Noising
from search.laptop.recipe import Removal, _spared, remove_layers, within
from search.laptop.settings import SNR_CAP, SNR_FLOOR, Criterion, LaptopSettings
from search.laptop.store import LOSSES
from search.laptop.tuples import Tuples, draw_tuples
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.reference import gated

PROMPTS = ("a red circle", "a blue square")
QUICK = LaptopSettings(criterion=Criterion.OUTPUT, tuples=2, rounds=0)
NAMED = {"a": "mid_block.resnets.0", "b": "mid_block.resnets.1", "c": "up_blocks.0.resnets.0"}
Opened = tuple[Pipeline, SubNet]


@pytest.fixture(scope="module")
def opened(pipelines: Callable[[str], Path]) -> Opened:
    pipeline = open_pipeline(pipelines("three-levels"))
    options = Options(steps=3, granularity=Granularity.LAYER, guidance=3.0)
    return pipeline, full(pipeline, options)


def search(
    opened: Opened, settings: LaptopSettings, folder: Path, *, resume: bool = False
) -> Removal:
    pipeline, whole = opened
    return remove_layers(
        pipeline,
        whole,
        [0.7],
        prompts=PROMPTS,
        settings=settings,
        cost=params_of,
        folder=folder,
        resume=resume,
    )


@pytest.fixture(scope="module")
def done(opened: Opened, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Removal]:
    folder = tmp_path_factory.mktemp("run")
    return folder, search(opened, QUICK, folder)


def losses(folder: Path) -> dict[frozenset[str], float]:
    lines = (folder / LOSSES).read_text().splitlines()
    return {
        frozenset(e["removed"]): sum(e["losses"]) / len(e["losses"]) for e in map(json.loads, lines)
    }


def test_the_budget_is_met(done: tuple[Path, Removal]) -> None:
    [subnet] = done[1].subnets
    assert 0.695 <= params_of(subnet) <= 0.7


def test_the_same_row_at_every_step(done: tuple[Path, Removal]) -> None:
    [subnet] = done[1].subnets
    assert len(set(subnet.actions)) == 1


def test_a_loss_is_what_plain_gating_gives(opened: Opened, done: tuple[Path, Removal]) -> None:
    """Each layer alone, without taking what stands before it from another call."""
    pipeline, whole = opened
    layers = layers_of(whole)
    tuples = Tuples.load(done[0] / "tuples.safetensors")
    output = OutputLoss(pipeline, layers, tuples)
    [(_, arguments, _)] = output._predictions._calls
    measured = losses(done[0])
    with torch.no_grad():
        whole_prediction = pipeline.denoiser(**arguments)[0]
        for layer in range(0, len(layers.names), 7):
            with gated(pipeline.denoiser, layers.once_without([layer])):
                moved = pipeline.denoiser(**arguments)[0] - whole_prediction
            one = frozenset({layers.names[layer]})
            assert measured[one] == pytest.approx(float(moved.square().mean()), rel=1e-4)


def test_a_picture_loss_weighs_what_each_step_does_to_the_picture(
    opened: Opened, done: tuple[Path, Removal]
) -> None:
    pipeline, whole = opened
    tuples = Tuples.load(done[0] / "tuples.safetensors")
    tuples = replace(tuples, timesteps=torch.tensor([10, 990]))
    noising = Noising.of(pipeline.pipe.scheduler)
    weights = noising.weights(tuples.timesteps, SNR_FLOOR, SNR_CAP)
    assert weights[0] < 0.9
    assert weights[1] > 1.1
    output, picture = (
        loss(pipeline, layers_of(whole), tuples)([{0}, {1, 7}])
        for loss in (OutputLoss, PictureLoss)
    )
    torch.testing.assert_close(picture, output * weights)


def test_the_sentence_names_the_loss(
    opened: Opened, done: tuple[Path, Removal], tmp_path: Path
) -> None:
    picture = search(opened, replace(QUICK, criterion=Criterion.PICTURE), tmp_path)
    for found, loss_name, other in ((done[1], "output", "picture"), (picture, "picture", "output")):
        assert f"{loss_name} loss" in found.sentence()
        assert f"{other} loss" not in found.sentence()
        assert found.additivity.loss_name == loss_name


def test_a_search_that_was_cut_off_goes_on(
    opened: Opened, done: tuple[Path, Removal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in done[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    lines = (tmp_path / LOSSES).read_text().splitlines(keepends=True)
    (tmp_path / LOSSES).write_text("".join(lines[:-3]) + lines[-3][:10])
    measured: list[int] = []
    original = probe._finite
    monkeypatch.setattr(
        probe,
        "_finite",
        lambda p, job, ls: measured.append(len(job.removed)) or original(p, job, ls),
    )
    again = search(opened, QUICK, tmp_path, resume=True)
    assert again.subnets == done[1].subnets
    assert sum(measured) == 3
    assert losses(tmp_path) == pytest.approx(losses(done[0]))


def test_a_directory_in_use_is_refused(opened: Opened, done: tuple[Path, Removal]) -> None:
    with pytest.raises(SearchError, match="holds a search already; give --resume"):
        search(opened, QUICK, done[0])


@pytest.mark.parametrize("name", ["run", "scores", "additivity"])
def test_what_is_written_says_what_it_is(done: tuple[Path, Removal], name: str) -> None:
    content = json.loads((done[0] / f"{name}.json").read_text())
    assert (content["schema"], content["kind"]) == (1, f"stepcarve-laptop-{name}")


def test_another_schema_is_refused(
    opened: Opened, done: tuple[Path, Removal], tmp_path: Path
) -> None:
    run = json.loads((done[0] / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**run, "schema": 0}))
    with pytest.raises(SearchError, match="holds a search that differs in schema"):
        search(opened, QUICK, tmp_path, resume=True)


def test_another_search_is_refused(opened: Opened, done: tuple[Path, Removal]) -> None:
    with pytest.raises(SearchError, match="holds a search that differs in seed, tuples"):
        search(opened, LaptopSettings(tuples=3, seed=1), done[0], resume=True)


@pytest.mark.slow
def test_workers_measure_the_same(
    opened: Opened, done: tuple[Path, Removal], tmp_path: Path
) -> None:
    search(opened, replace(QUICK, workers=2), tmp_path)
    assert losses(tmp_path) == pytest.approx(losses(done[0]), rel=1e-4)


@pytest.mark.parametrize("criterion", [c for c in Criterion if c.is_noised])
def test_an_unknown_scheduler_is_refused_before_anything_is_done(
    opened: Opened, criterion: Criterion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened[0].pipe, "scheduler", EDMEulerScheduler())
    message = "does not know how EDMEulerScheduler .* another scheduler, or search with --criterion"
    with pytest.raises(SearchError, match=message):
        search(opened, replace(QUICK, criterion=criterion), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("criterion", list(Criterion))
def test_every_criterion_chooses(opened: Opened, criterion: Criterion, tmp_path: Path) -> None:
    found = search(opened, replace(QUICK, criterion=criterion), tmp_path)
    assert 0.695 <= params_of(found.subnets[0]) <= 0.7
    assert all(not weight.requires_grad for weight in opened[0].denoiser.parameters()) or (
        criterion is not Criterion.TAYLOR
    )


def test_rounds_never_choose_worse(
    opened: Opened, done: tuple[Path, Removal], tmp_path: Path
) -> None:
    found = search(opened, replace(QUICK, rounds=1), tmp_path)
    assert found.losses[0] <= done[1].losses[0] * (1 + 1e-6)


def test_alternatives_that_do_not_fit_are_passed_over(
    opened: Opened, done: tuple[Path, Removal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def only_once(*arguments: Any) -> frozenset[int]:
        asked.append(arguments)
        if len(asked) > 1:
            msg = "no choice of layers was found"
            raise SearchError(msg)
        return within(*arguments)

    monkeypatch.setattr(recipe, "within", only_once)
    found = search(opened, replace(QUICK, rounds=1), tmp_path)
    assert [one.actions for one in found.subnets] == [one.actions for one in done[1].subnets]
    assert len(asked) > 1


def test_neighbours_stay_in_the_budget(opened: Opened) -> None:
    """Where nothing else fits, sparing a layer would remove far more than was asked for."""
    layers = layers_of(opened[1])
    first = layers.number["down_blocks.1.attentions.0"]
    keep = params_of(layers.without([first]))
    shares = [0.0] * len(layers.names)
    for layer in (first, layers.number["up_blocks.0.resnets.0"]):
        shares[layer] = 1 - params_of(layers.without([layer]))
    scores = [1.0] * len(shares)
    found = _spared(layers, shares, [scores], frozenset({first}), keep, params_of)
    assert all(keep - 0.005 <= params_of(layers.without(one)) for one in found)


def test_shares_that_do_not_add_up_are_corrected(opened: Opened) -> None:
    """Two layers together free more than each for itself: less has to go than their shares say."""
    layers = layers_of(opened[1])
    shares = layers.shares(params_of)

    def dearer(subnet: SubNet) -> float:
        return min(1.0, 1.02 * params_of(subnet))

    chosen = within(layers, shares, list(shares), 0.7, dearer)
    assert 0.69 <= dearer(layers.without(chosen)) <= 0.7


def priced(
    opened: Opened, shares: dict[str, float], costs: dict[str, float]
) -> tuple[Layers, list[float], Callable[[SubNet], float]]:
    """Layers of which few can go, with what their shares say and what sets of them really cost."""
    layers = layers_of(opened[1])
    numbers = {layers.number[NAMED[letter]]: share for letter, share in shares.items()}
    letters = {name: letter for letter, name in NAMED.items()}

    def cost(subnet: SubNet) -> float:
        return costs["".join(sorted(letters[name] for name in skipped(subnet)))]

    return layers, [numbers.get(i, 0.0) for i in range(len(layers.names))], cost


def test_a_corrected_budget_out_of_reach_leaves_what_fits(opened: Opened) -> None:
    """ab removes more than asked; c, tried instead, so much less that nothing would make up for it."""
    shares = {"a": 0.3, "b": 0.2, "c": 0.4}
    layers, each, cost = priced(opened, shares, {"ab": 0.4, "c": 1.1})
    chosen = within(layers, each, each, 0.5, cost)
    assert {layers.names[i] for i in chosen} == {NAMED["a"], NAMED["b"]}


def test_a_budget_that_nothing_fits_is_named_as_asked(opened: Opened) -> None:
    layers, each, cost = priced(opened, {"a": 0.3, "b": 0.3}, {"ab": 0.7})
    with pytest.raises(SearchError, match=r"no choice of layers was found that keeps 0\.5 of"):
        within(layers, each, each, 0.5, cost)


def test_tuples_are_read_back_as_written(opened: Opened, tmp_path: Path) -> None:
    drawn = draw_tuples(*opened, PROMPTS, count=3, seed=0)
    drawn.save(tmp_path / "t")
    again = Tuples.load(tmp_path / "t")
    assert torch.equal(again.latents, drawn.latents)
    assert torch.equal(again.final, drawn.final)
    assert again.prompts == drawn.prompts
