"""Least-squares rows, and what they do in a chain of calls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from search.fitting.rows import Calls, fit_chain, least_squares, rows_of, run_chain, table_of
from search.model.scheduler import combine
from tests.search.fitting.toy import linear_runs


def test_known_weights_are_found() -> None:
    features = [torch.randn(3, 2, 4, 4) for _ in range(3)]
    target = combine([0.5, -2.0, 1.5], features)
    assert least_squares(features, target).tolist() == pytest.approx([0.5, -2.0, 1.5], abs=1e-4)


def test_a_picture_without_weight_does_not_count() -> None:
    feature = torch.randn(2, 1, 4, 4)
    target = feature.clone()
    target[1] *= 9
    found = least_squares([feature], target, torch.tensor([1.0, 0.0]))
    assert found.item() == pytest.approx(1.0, abs=1e-4)
    assert least_squares([feature], target).item() > 2


def test_all_calls_of_the_full_sampler_reach_its_end() -> None:
    runs = linear_runs()
    places = [torch.tensor(float(i)) for i in range(runs.last + 1)]
    assert runs.error(fit_chain(runs, Calls.at(places)).final).max() < 1e-4


def test_fewer_calls_end_elsewhere() -> None:
    runs = linear_runs()
    assert runs.error(fit_chain(runs, Calls.at([torch.tensor(0.0)])).final).min() > 1e-3


def test_rows_serve_runs_that_were_not_fitted() -> None:
    fitted, other = linear_runs(seed=0), linear_runs(seed=1)
    calls = Calls.at([torch.tensor(p) for p in (0.0, 2.5, 5.0)])
    chain = fit_chain(fitted, calls)
    assert torch.equal(run_chain(fitted, calls, chain.rows), chain.final)
    assert other.error(run_chain(other, calls, chain.rows)).max() < 0.2


@pytest.mark.parametrize("predicts", [(True,) * 4, (True, False, True, True)])
def test_a_table_says_the_same_as_its_rows(predicts: tuple[bool, ...]) -> None:
    runs = linear_runs()
    places = tuple(torch.tensor(p) for p in (0.0, 2.0, 3.5, 6.0))
    calls = Calls(places, predicts)
    chain = fit_chain(runs, calls)
    steps = (0, 2, 3, 5)
    table = table_of(chain.rows, runs.first, steps=steps, predicts=predicts, total=6)
    values: list[Tensor] = [runs.noise, *(torch.zeros_like(runs.noise) for _ in range(6))]
    for step, place, is_new in zip(steps, places, predicts, strict=True):
        made = runs.predictor(combine(table.inputs[step], values), runs.timestep_at(place))
        if is_new:
            values[1 + step] = made
    assert torch.allclose(combine(table.final, values), chain.final, atol=1e-5)
    assert not np.any(table.inputs[[1, 4]])


def test_rows_of_a_table_say_the_same_as_the_table() -> None:
    runs = linear_runs()
    calls = Calls.at_numbers((0.0, 2.0, 3.5, 6.0, 7.0), runs)
    chain = fit_chain(runs, calls)
    table = table_of(chain.rows, runs.first, steps=range(5), predicts=(True,) * 5, total=5)
    rows = rows_of(table)
    assert [len(row) for row in rows] == [2, 3, 4, 5, 6]
    assert torch.allclose(run_chain(runs, calls, rows), chain.final, atol=1e-5)
